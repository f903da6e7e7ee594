//! The team: what is shared out, who waits, and what happens when something goes wrong.

use super::wait::cores;
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The team is one for all tests: those that need it take turns.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn threads_share_one_region_with_barriers() {
    let _turn = turn();
    for count in [1, 2, 3, 8] {
        let mut hands = vec![0usize; count];
        let cells: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        share(&mut hands, |worker, hand| {
            assert_eq!(worker.count(), count);
            for round in 1..200 {
                // Relaxed: the barriers alone order these.
                cells[worker.index()].store(round, Ordering::Relaxed);
                worker.wait();
                *hand += cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum::<usize>();
                worker.wait();
            }
        });
        assert_eq!(hands, vec![count * 199 * 200 / 2; count]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn threads_kept_off_a_cpu_come_home() {
    let (go, wait) = std::sync::mpsc::channel::<affinity::Set>();
    let (said, hear) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        said.send(affinity::here()).unwrap();
        let home = wait.recv().unwrap();
        said.send(affinity::here()).unwrap();
        affinity::set(&home);
        said.send(thread::available_parallelism().ok().map(usize::from)).unwrap();
    });
    let Some(cpu) = hear.recv().unwrap() else { return };
    let home = affinity::keep_off(&thread, cpu);
    if cores() == 1 {
        assert_eq!(home, None, "there is no other");
        return;
    }
    go.send(home.unwrap()).unwrap();
    assert_ne!(hear.recv().unwrap(), Some(cpu));
    assert_eq!(hear.recv().unwrap(), Some(cores()));
    thread.join().unwrap();
}

#[test]
fn threads_share_two_groups_side_by_side() {
    let _turn = turn();
    for counts in [[1, 1], [1, 3], [3, 2], [2, 0]] {
        let (mut first, mut second) = (vec![0; counts[0]], vec![0; counts[1]]);
        let met = [AtomicUsize::new(0), AtomicUsize::new(0)];
        share_pair([&mut first, &mut second], |group, worker, hand| {
            assert_eq!(worker.count(), counts[group]);
            // Only the own group is waited for: the other may meet more often.
            for _ in 0..50 * (group + 1) {
                met[group].fetch_add(1, Ordering::Relaxed);
                worker.wait();
                assert_eq!(met[group].load(Ordering::Relaxed) % counts[group], 0);
                worker.wait();
            }
            *hand = 10 * group + worker.index() + 1;
        });
        assert_eq!(first, (1..=counts[0]).collect::<Vec<_>>());
        assert_eq!(second, (11..11 + counts[1]).collect::<Vec<_>>());
    }
}

#[test]
fn threads_survive_a_panic_in_either_group() {
    let _turn = turn();
    for culprit in 0..2 {
        let raised = catch_unwind(AssertUnwindSafe(|| {
            share_pair([&mut [(); 2], &mut [(); 2]], |group, worker, ()| {
                if group == culprit && worker.index() == 1 {
                    resume_unwind(Box::new("culprit"));
                }
                worker.wait();
            });
        }));
        assert_eq!(raised.unwrap_err().downcast_ref(), Some(&"culprit"));
    }
}

#[test]
fn threads_wake_up_after_a_pause() {
    let _turn = turn();
    for pause in [0, 1, 20] {
        thread::sleep(Duration::from_millis(pause));
        let mut hands = [0; 3];
        share(&mut hands, |worker, hand| *hand = worker.index() + 1);
        assert_eq!(hands, [1, 2, 3]);
    }
}

#[test]
fn threads_that_are_busy_are_not_waited_for() {
    let _turn = turn();
    let inner = AtomicUsize::new(0);
    share(&mut [(); 2], |worker, ()| {
        if worker.index() == 0 {
            share(&mut [(); 2], |worker, ()| {
                inner.fetch_add(worker.count(), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(inner.into_inner(), 1);
}

#[test]
fn threads_survive_a_panic_in_any_of_them() {
    let _turn = turn();
    for culprit in 0..3 {
        let raised = catch_unwind(AssertUnwindSafe(|| {
            share(&mut [(); 3], |worker, ()| {
                if worker.index() == culprit {
                    resume_unwind(Box::new("culprit"));
                }
                worker.wait();
                unreachable!("one never comes");
            });
        }));
        assert_eq!(raised.unwrap_err().downcast_ref(), Some(&"culprit"));
        let mut hands = [0; 3];
        share(&mut hands, |worker, hand| {
            worker.wait();
            *hand = worker.count();
        });
        assert_eq!(hands, [3; 3]);
    }
}

#[test]
fn threads_of_many_callers_take_turns() {
    let _turn = turn();
    let total = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut hands = [0; 4];
                    share(&mut hands, |worker, hand| {
                        worker.wait();
                        *hand = worker.part(12).len();
                    });
                    assert!(hands == [3; 4] || hands == [12, 0, 0, 0], "{hands:?}");
                    total.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 400);
}

#[test]
fn threads_are_asked_for_where_it_pays() {
    let _turn = turn();
    assert_eq!(worthwhile(1, Duration::from_secs(1)), 1);
    assert_eq!(worthwhile(4, Duration::from_secs(1)), 4);
    assert_eq!(worthwhile(4, Duration::from_nanos(10)), 1);
}
