//! Two directions of a layer side by side: what each is by itself.

use super::calls::{ALONE, assert_same, try_backward, try_forward};
use super::cases::{Case, Data};
use super::ways::{Two, backward_both, forward_both};
use crate::cell::CellSpec;
use crate::error::Error;
use crate::layer::Control;
use crate::layer::share::{FORCED, Split};
use crate::simd::InstructionSet;
use crate::testing::{Real, on_every_isa};

on_every_isa! {
    side_by_side_each_is_itself,
    either_can_be_refused,
    both_can_be_stopped,
}

/// The same layer forward and in reverse, with other numbers.
fn directions(case: &Case) -> Two<Case> {
    [case.clone(), Case { reverse: !case.reverse, seed: case.seed + 1, ..case.clone() }]
}

fn side_by_side_each_is_itself(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, case: &Case) {
        let cases = directions(case);
        let data = [0, 1].map(|d| Data::<T>::new(&cases[d]));
        let tapes = [0, 1].map(|d| try_forward(isa, &cases[d], &data[d], true, &ALONE).unwrap());
        let gradients = [0, 1].map(|d| try_backward(isa, &cases[d], &data[d], &tapes[d], &ALONE).unwrap());
        for (split, threads) in [(None, 1), (Some(Split::Batch), 2), (Some(Split::Units), 2), (Some(Split::Units), 5)] {
            let control = Control { threads, ..ALONE };
            FORCED.set(split);
            let got_tapes = forward_both(isa, &cases, &data, &control).unwrap();
            let got = backward_both(isa, &cases, &data, &got_tapes, &control).unwrap();
            FORCED.set(None);
            for d in 0..2 {
                assert_same(&cases[d], got_tapes[d].named(), tapes[d].named());
                assert_same(&cases[d], got[d].named(), gradients[d].named());
            }
        }
    }
    let _turn = crate::threads::tests::turn();
    let peephole = CellSpec { peephole: true, ..CellSpec::GERS_1999 };
    for case in [
        Case::new(CellSpec::GERS_1999, [7, 1, 3, 70]),
        Case { lengths: Some((0..9).map(|n| n % 6).collect()), ..Case::new(peephole, [5, 9, 2, 40]) },
        Case { projection: Some(20), ..Case::new(peephole, [5, 30, 2, 40]) },
        Case::new(CellSpec::GERS_1999, [0, 3, 2, 4]),
    ] {
        check::<f32>(isa, &case);
        check::<f64>(isa, &case);
    }
}

fn either_can_be_refused(isa: InstructionSet) {
    let case = Case::new(CellSpec::GERS_1999, [4, 3, 2, 5]);
    for wrong in 0..2 {
        let mut cases = directions(&case);
        let data = [0, 1].map(|d| Data::<f32>::new(&cases[d]));
        cases[wrong].lengths = Some(vec![1, 5, 2]);
        for threads in [1, 2] {
            FORCED.set(Some(Split::Batch));
            let refused = forward_both(isa, &cases, &data, &Control { threads, ..ALONE });
            FORCED.set(None);
            assert_eq!(refused.unwrap_err().to_string(), "lengths[1]: expected 0 to 4 (the steps of x), got 5");
        }
    }
}

fn both_can_be_stopped(isa: InstructionSet) {
    let cases = directions(&Case::new(CellSpec::GERS_1999, [300, 4, 2, 64]));
    let data = [0, 1].map(|d| Data::<f32>::new(&cases[d]));
    let _turn = crate::threads::tests::turn();
    for threads in [1, 2, 4] {
        let control = Control { threads, cancel: &|| true };
        FORCED.set(Some(Split::Units));
        let stopped = forward_both(isa, &cases, &data, &control).err();
        let tapes = forward_both(isa, &cases, &data, &Control { threads, ..ALONE }).unwrap();
        let stopped_back = backward_both(isa, &cases, &data, &tapes, &control).err();
        FORCED.set(None);
        assert_eq!((stopped, stopped_back), (Some(Error::Cancelled), Some(Error::Cancelled)));
    }
}
