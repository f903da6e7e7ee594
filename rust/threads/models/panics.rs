//! A worker that panics: the others are let go, the caller has the panic, and the next region is like any other.

use super::*;

/// One worker panics after so many meetings, of which the others have one more in mind.
fn survives(counts: [usize; 2], culprit: (usize, usize), meetings: usize, regions: usize) {
    let others = counts[0] + counts[1] - 1;
    let team = team(others, regions);
    let seen: Vec<_> = (0..=others).map(|_| Plain::new()).collect();
    let passed = AtomicUsize::new(0);
    let job = |group: usize, worker: &Worker<'_>| {
        let own = &seen[group * counts[0] + worker.index()];
        for _ in 0..meetings {
            own.set(own.get() + 1);
            worker.wait();
        }
        if (group, worker.index()) == culprit {
            resume_unwind(Box::new(CULPRIT));
        }
        worker.wait();
        passed.fetch_add(1, Ordering::Relaxed);
    };
    let region = Region::new(&job, counts);
    assert!(team.run(&region, others));
    let raised = catch_unwind(AssertUnwindSafe(|| region.end()));
    assert!(raised.is_err_and(culprit_of));
    assert_eq!(passed.load(Ordering::Relaxed), counts[1 - culprit.0], "one never comes");
    assert!(seen.iter().all(|seen| seen.get() == meetings));
    for _ in 1..regions {
        seen.iter().for_each(|seen| seen.set(0));
        let job = |group: usize, worker: &Worker<'_>| {
            seen[group * counts[0] + worker.index()].set(1);
            worker.wait();
        };
        let region = Region::new(&job, counts);
        assert!(team.run(&region, others));
        region.end();
        assert!(seen.iter().all(|seen| seen.get() == 1));
    }
    dismiss(team);
}

#[test]
fn models_of_panics_for_two() {
    for culprit in 0..2 {
        check(&format!("panic of worker {culprit} of 2"), None, move || survives([2, 0], (0, culprit), 0, 1));
        check(&format!("panic of worker {culprit} of 2, after a meeting"), None, move || {
            survives([2, 0], (0, culprit), 1, 1)
        });
        check(&format!("panic of worker {culprit} of 2, and a region"), Some(4), move || {
            survives([2, 0], (0, culprit), 0, 2)
        });
    }
}

/// The same without the team, as where another library lends its threads.
fn lets_go(counts: [usize; 2], culprit: (usize, usize), meetings: usize) {
    let count = counts[0] + counts[1];
    let seen = [(); 3].map(|()| Plain::new());
    let passed = Arc::new(AtomicUsize::new(0));
    let all = Arc::clone(&passed);
    // Threads of loom may not borrow.
    let job: &'static _ = Box::leak(Box::new(move |group: usize, worker: &Worker<'_>| {
        for _ in 0..meetings {
            worker.wait();
        }
        if (group, worker.index()) == culprit {
            resume_unwind(Box::new(CULPRIT));
        }
        seen[worker.index()].set(1);
        worker.wait();
        all.fetch_add(1, Ordering::Relaxed);
        assert!(seen[..worker.count()].iter().all(|seen| seen.get() == 1));
    }));
    let region = Arc::new(Region::new(job, counts));
    let others: Vec<_> = (1..count)
        .map(|index| {
            let region = Arc::clone(&region);
            loom::thread::spawn(move || region.work(index))
        })
        .collect();
    region.work(0);
    others.into_iter().for_each(|other| other.join().unwrap());
    assert_eq!(passed.load(Ordering::Relaxed), counts[1 - culprit.0], "one never comes; the other group is left alone");
    let region = Arc::into_inner(region).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| region.end())).is_err_and(culprit_of));
}

#[test]
fn models_of_panics_for_three() {
    for culprit in 0..3 {
        check(&format!("lent threads, panic of worker {culprit} of 3"), None, move || lets_go([3, 0], (0, culprit), 0));
        check(&format!("lent threads, panic of worker {culprit} of 3, after a meeting"), Some(3), move || {
            lets_go([3, 0], (0, culprit), 1)
        });
    }
    for culprit in 0..3 {
        check(&format!("panic of worker {culprit} of 3"), Some(3), move || survives([3, 0], (0, culprit), 0, 1));
    }
}

#[test]
fn models_of_panics_in_one_of_two_groups() {
    for (counts, culprit) in [([1, 2], (0, 0)), ([1, 2], (1, 0)), ([2, 1], (1, 0)), ([2, 1], (0, 0))] {
        check(&format!("groups of {counts:?}, panic of {culprit:?}"), None, move || lets_go(counts, culprit, 0));
    }
}
