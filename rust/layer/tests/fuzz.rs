//! Calls made of any bytes, for a fuzzer that learns which of them reach new code (`tests/fuzz`), and for `cargo test`,
//! which runs over those that it has kept.
//!
//! A call is made once and compared in three ways: number by number with bounds of its own ([`oracle`]), to the bit with
//! the same call on another instruction set, other threads, windows and layouts, and to the bit with a call that has to
//! come to the same: without a tape, in pieces of time, some of its sequences alone, both directions at once, as a stream.
//! Calls whose numbers may be anything (NaN, infinite, huge) are not compared with bounds.

mod oracle;
mod refused;
mod source;

use std::sync::Arc;

use ndarray::{Array2, Axis};

use self::source::{Source, Way};
use super::calls::{Backwarded, Forwarded, assert_same, try_backward, try_forward};
use super::cases::{Case, Data};
use super::ways::{backward_both, forward_both, in_pieces};
use crate::layer::{Forward, Stream};
use crate::testing::{Real, assert_same_bits};

pub(in crate::layer) use self::refused::refusals;

/// A call that fits.
pub(in crate::layer) fn passes(bytes: &[u8]) {
    let mut source = Source(bytes);
    match source.below(8) {
        0 => linear::<f32>(&mut source),
        1 => linear::<f64>(&mut source),
        2..5 => pass::<f32>(&mut source),
        _ => pass::<f64>(&mut source),
    }
}

/// A linear read-out: to the bit the chains that its documentation says.
fn linear<T: Real>(source: &mut Source<'_>) {
    let sizes = source.rows();
    let data = super::linear::Data::<T>::new(sizes, source.heads(), u64::from(source.byte()));
    let way = source.way();
    way.run(|control| data.assert_chains(way.isa, &data.chains(), control));
}

type Outcome<T> = (Forwarded<T>, Option<Backwarded<T>>);

/// The call forward, and backward where the cell can.
fn run<T: Real>(way: Way, case: &Case, data: &Data<T>) -> Outcome<T> {
    let case = Case { layout: way.layout, ..case.clone() };
    way.run(|control| {
        let tape = try_forward(way.isa, &case, data, true, control).unwrap();
        let gradients =
            case.cell.check_gradient().is_ok().then(|| try_backward(way.isa, &case, data, &tape, control).unwrap());
        (tape, gradients)
    })
}

#[track_caller]
fn assert_all_same<T: Real>(what: &dyn std::fmt::Debug, got: &Outcome<T>, expected: &Outcome<T>) {
    assert_same(what, got.0.named(), expected.0.named());
    if let (Some(got), Some(expected)) = (&got.1, &expected.1) {
        assert_same(what, got.named(), expected.named());
    }
}

fn pass<T: Real>(source: &mut Source<'_>) {
    let tame = source.below(4) > 0;
    let case = source.case(tame);
    let (way, other, check) = (source.way(), source.way(), source.below(8));
    let mut data = Data::<T>::new(&case);
    if !tame {
        source.spoil(&mut data);
    }
    let whole = run(way, &case, &data);
    if tame {
        oracle::check(&case, &data, &whole);
    }
    assert_all_same(&(&case, other), &run(other, &case, &data), &whole);
    let (tape, gradients) = &whole;
    match check {
        0 => {
            let without = other.run(|control| try_forward(other.isa, &case, &data, false, control)).unwrap();
            assert_same(&(&case, other), without.outputs(), tape.outputs());
        }
        1 => pieces(source, other, &case, &data, &whole),
        2 => some_sequences(source, other, &case, &data, &whole),
        3 => both_directions(other, &case, &data, &whole),
        4 if case.lengths.is_none() && !case.reverse => stream(other, &case, &data, tape),
        _ => assert_eq!(gradients.is_none(), case.cell.check_gradient().is_err()),
    }
}

/// In pieces of time, cut anywhere.
fn pieces<T: Real>(source: &mut Source<'_>, way: Way, case: &Case, data: &Data<T>, whole: &Outcome<T>) {
    let (tape, Some(gradients)) = whole else { return };
    let mut cuts = vec![0, case.steps];
    cuts.extend((0..1 + source.below(3)).map(|_| source.below(256) % (case.steps + 1)));
    cuts.sort_unstable();
    let (y, dx, (last, first)) = way.run(|_| in_pieces(way.isa, case, data, &cuts));
    assert_same(case, vec![("y", y.view().into_dyn())], vec![("y", tape.y.view().into_dyn())]);
    assert_same(case, last.outputs()[1..].to_vec(), tape.outputs()[1..].to_vec());
    assert_same(case, first.of_sequences()[..2].to_vec(), gradients.of_sequences()[..2].to_vec());
    if let (Some(dx), Some(whole)) = (dx, &gradients.x) {
        assert_same_bits("dx", dx.view(), whole.view());
    }
}

/// Some neighbours of the batch as a batch of their own.
fn some_sequences<T: Real>(source: &mut Source<'_>, way: Way, case: &Case, data: &Data<T>, whole: &Outcome<T>) {
    let start = source.below(256) % (case.batch + 1);
    let part = start..start + source.below(256) % (case.batch - start + 1);
    let (case, data) = data.sequences(case, part.clone());
    let (tape, gradients) = run(way, &case, &data);
    // (N, ·), else (T, N, ..)
    let cut = |(name, mut array): (&'static str, ndarray::ArrayViewD<'_, T>)| {
        let axis = Axis(usize::from(array.ndim() > 2));
        array.slice_axis_inplace(axis, part.clone().into());
        (name, array.to_owned())
    };
    let mut expected: Vec<_> = whole.0.named().into_iter().map(cut).collect();
    let mut got = tape.named();
    if let (Some(gradients), Some(whole)) = (&gradients, &whole.1) {
        expected.extend(whole.of_sequences().into_iter().map(cut));
        got.extend(gradients.of_sequences());
    }
    assert_same(&case, got, expected.iter().map(|(name, array)| (*name, array.view())).collect());
}

/// Beside the same layer with other numbers, in the other direction.
fn both_directions<T: Real>(way: Way, case: &Case, data: &Data<T>, whole: &Outcome<T>) {
    let (tape, Some(gradients)) = whole else { return };
    let other = Case { reverse: !case.reverse, seed: case.seed.wrapping_add(1), ..case.clone() };
    let (cases, data) = ([case.clone(), other.clone()], [data.clone(), Data::new(&other)]);
    let (tapes, both) = way.run(|control| {
        let tapes = forward_both(way.isa, &cases, &data, control).unwrap();
        let gradients = backward_both(way.isa, &cases, &data, &tapes, control).unwrap();
        (tapes, gradients)
    });
    assert_same(case, tapes[0].named(), tape.named());
    assert_same(case, both[0].named(), gradients.named());
}

/// Step by step, twice in the same memory.
fn stream<T: Real>(way: Way, case: &Case, data: &Data<T>, tape: &Forwarded<T>) {
    let weights = Forward::new(way.isa, case.cell, &data.weights()).unwrap();
    let mut stream = Stream::new(vec![Arc::new(weights)], case.batch).unwrap();
    let zeros = |width| Array2::from_elem((case.batch, width), T::ZERO);
    let (h, c) = data.state.clone().unwrap_or_else(|| (zeros(case.output()), zeros(case.hidden)));
    let mut y = zeros(case.output());
    for _ in 0..2 {
        let state = [&h, &c].map(|state| state.view().insert_axis(Axis(0)).into_dyn());
        let [h, c] = state;
        stream.set_state(h, c).unwrap();
        for t in 0..case.steps {
            way.run(|control| stream.step(data.x.index_axis(Axis(0), t), y.view_mut(), control)).unwrap();
            assert_same_bits("y of a stream", y.view(), tape.y.index_axis(Axis(0), t));
        }
        let (h, c) = stream.state();
        assert_same_bits("h of a stream", h.index_axis(Axis(0), 0), tape.h.view());
        assert_same_bits("c of a stream", c.index_axis(Axis(0), 0), tape.c.view());
    }
}

/// What the fuzzer has kept, once more, and bytes that nobody has chosen: on whatever instruction sets there are.
#[cfg(test)]
mod without_a_fuzzer {
    use std::path::Path;

    use crate::testing::{Rng, say};

    fn each(target: &str, run: fn(&[u8])) {
        let _turn = crate::threads::tests::turn();
        let mut rng = Rng::new(31);
        for _ in 0..25 {
            let bytes: Vec<u8> = (0..rng.below(120)).map(|_| rng.bits() as u8).collect();
            run(&bytes);
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
        let Ok(files) = std::fs::read_dir(&folder) else {
            return say(&format!("skipped: {} is not there", folder.display()));
        };
        let mut count = 0;
        for file in files {
            run(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 10, "{count} in {}", folder.display());
    }

    #[test]
    #[ignore = "a minute; a fuzzer runs more of them"]
    fn passes() {
        each("passes", super::passes);
    }

    #[test]
    #[ignore = "a minute; a fuzzer runs more of them"]
    fn refusals() {
        each("refusals", super::refusals);
    }
}
