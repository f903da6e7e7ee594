//! The barrier alone.

use super::*;

/// Each worker writes its own part and reads the others', in turns, with a meeting between.
fn meets(count: usize, meetings: usize) {
    let shared = Arc::new((Barrier::new(), [(); 3].map(|()| Plain::new())));
    let work = move |index: usize, shared: &(Barrier, [Plain; 3])| {
        let (barrier, parts) = shared;
        let worker = Worker { index, count, barrier: Some(barrier) };
        for meeting in 0..meetings {
            if meeting % 2 == 0 {
                parts[index].set(meeting + 1);
            } else {
                assert!(parts[..count].iter().all(|part| part.get() == meeting));
            }
            worker.wait();
        }
    };
    let others: Vec<_> = (1..count)
        .map(|index| {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || work(index, &shared))
        })
        .collect();
    work(0, &shared);
    others.into_iter().for_each(|other| other.join().unwrap());
}

#[test]
fn models_of_a_barrier_for_two() {
    for meetings in 1..=4 {
        check(&format!("barrier of 2, {meetings} meetings"), None, move || meets(2, meetings));
    }
}

#[test]
fn models_of_a_barrier_for_three() {
    check("barrier of 3, 1 meeting", None, || meets(3, 1));
    check("barrier of 3, 2 meetings", Some(6), || meets(3, 2));
}
