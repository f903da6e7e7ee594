//! Regions: how a member gets one, whether it sleeps or not, and who sees what of it.

use super::*;

/// A caller and `others` members share regions one after the other. What each worker reads and writes is plain memory of the
/// caller's, which writes it before and reads it after.
fn shares(others: usize, regions: usize, meetings: usize) {
    let team = team(others, regions);
    let parts: Vec<_> = (0..=others).map(|_| Plain::new()).collect();
    for region in 0..regions {
        parts.iter().for_each(|part| part.set(region));
        let job = |_: usize, worker: &Worker<'_>| {
            let own = &parts[worker.index()];
            assert_eq!(own.get(), region);
            own.set(10 + region);
            for _ in 0..meetings {
                worker.wait();
                assert!(parts.iter().all(|part| part.get() == 10 + region));
            }
        };
        let shared = Region::new(&job, [others + 1, 0]);
        assert!(team.run(&shared, others));
        shared.end();
        assert!(parts.iter().all(|part| part.get() == 10 + region));
    }
    dismiss(team);
}

#[test]
fn models_of_regions_for_two() {
    check("2 workers, 1 region", None, || shares(1, 1, 0));
    check("2 workers, 2 regions", None, || shares(1, 2, 0));
    check("2 workers, 3 regions", Some(4), || shares(1, 3, 0));
    check("2 workers, 1 region, 1 meeting", None, || shares(1, 1, 1));
    check("2 workers, 2 regions, 1 meeting each", Some(4), || shares(1, 2, 1));
}

#[test]
fn models_of_regions_for_three() {
    check("3 workers, 1 region", Some(3), || shares(2, 1, 0));
    check("3 workers, 2 regions", Some(3), || shares(2, 2, 0));
}

/// Two callers at once: who comes second works alone, or after the first has gone.
fn takes_turns() {
    let team = Arc::new(team(1, 2));
    let part = Arc::new(Plain::new());
    let call = |team: &Team, part: &Plain| {
        let met = Plain::new();
        let job = |_: usize, worker: &Worker<'_>| {
            if worker.index() == 1 {
                part.set(part.get() + 1);
                met.set(1);
            }
        };
        let region = Region::new(&job, [2, 0]);
        let shared = team.run(&region, 1);
        region.end();
        assert_eq!(met.get(), usize::from(shared));
        shared
    };
    let (of_other, its_part) = (Arc::clone(&team), Arc::clone(&part));
    let other = loom::thread::spawn(move || call(&of_other, &its_part));
    let mut shared = usize::from(call(&team, &part));
    shared += usize::from(other.join().unwrap());
    assert!(shared > 0);
    // The member serves two.
    if shared == 1 {
        assert!(call(&team, &part));
    }
    assert_eq!(part.get(), 2);
    dismiss(Arc::into_inner(team).unwrap());
}

#[test]
fn models_of_regions_of_two_callers() {
    check("2 callers", Some(4), takes_turns);
}
