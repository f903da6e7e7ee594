//! A stream, step by step: what the layers make of the whole sequence, to the bit.

use std::sync::Arc;

use ndarray::{Array2, Array3, Axis, s};

use super::calls::{ALONE, Forwarded, try_forward};
use super::cases::{Case, Data};
use super::memory::allocations;
use crate::cell::CellSpec;
use crate::layer::{Forward, Stream};
use crate::simd::InstructionSet;
use crate::testing::{Real, assert_same_bits, on_every_isa};

on_every_isa! {
    steps_are_the_whole,
    a_step_allocates_nothing,
    what_is_refused_leaves_the_state,
}

/// Two layers: the second runs over the outputs of the first.
fn layers<T: Real>(isa: InstructionSet, projection: Option<usize>) -> (Stream<T>, Data<T>, Forwarded<T>) {
    let peephole = CellSpec { peephole: true, ..CellSpec::GERS_1999 };
    let below = Case { projection, state: false, ..Case::new(peephole, [7, 3, 2, 20]) };
    let above = Case { input: below.output(), seed: 2, ..below.clone() };
    let (data, mut upper) = (Data::<T>::new(&below), Data::<T>::new(&above));
    upper.x = try_forward(isa, &below, &data, false, &ALONE).unwrap().y;
    let whole = try_forward(isa, &above, &upper, false, &ALONE).unwrap();
    let packed = [&data, &upper].map(|data| Arc::new(Forward::new(isa, peephole, &data.weights()).unwrap()));
    (Stream::new(packed.to_vec(), 3).unwrap(), data, whole)
}

fn steps_are_the_whole(isa: InstructionSet) {
    fn check<T: Real>(isa: InstructionSet, projection: Option<usize>) {
        let (mut stream, data, whole) = layers::<T>(isa, projection);
        assert_eq!((stream.batch(), stream.dims().input_size), (3, 2));
        let mut y = Array2::from_elem((3, whole.y.dim().2), T::ZERO);
        let mut halfway = None;
        for t in 0..7 {
            if t == 4 {
                let (h, c) = stream.state();
                halfway = Some((h.to_owned(), c.to_owned()));
            }
            stream.step(data.x.index_axis(Axis(0), t), y.view_mut(), &ALONE).unwrap();
            assert_same_bits("y", y.view(), whole.y.index_axis(Axis(0), t));
        }
        let (h, c) = stream.state();
        assert_same_bits("h", h.slice(s![1, .., ..]), whole.h.view());
        assert_same_bits("c", c.slice(s![1, .., ..]), whole.c.view());
        // From the state that there was halfway, the rest once more.
        let (h, c) = halfway.unwrap();
        stream.set_state(h.view().into_dyn(), c.view().into_dyn()).unwrap();
        for t in 4..7 {
            stream.step(data.x.index_axis(Axis(0), t), y.view_mut(), &ALONE).unwrap();
        }
        assert_same_bits("y", y.view(), whole.y.index_axis(Axis(0), 6));
    }
    for projection in [None, Some(5)] {
        check::<f32>(isa, projection);
        check::<f64>(isa, projection);
    }
}

fn a_step_allocates_nothing(isa: InstructionSet) {
    let (mut stream, data, whole) = layers::<f32>(isa, Some(5));
    let mut y = Array2::zeros((3, whole.y.dim().2));
    let mut step = |t| stream.step(data.x.index_axis(Axis(0), t), y.view_mut(), &ALONE).unwrap();
    assert!(allocations(|| step(0)) > 0, "the first makes room");
    assert_eq!(allocations(|| (1..7).for_each(step)), 0);
}

fn what_is_refused_leaves_the_state(isa: InstructionSet) {
    let (mut stream, data, _) = layers::<f64>(isa, None);
    let mut y = Array2::zeros((3, 20));
    stream.step(data.x.index_axis(Axis(0), 0), y.view_mut(), &ALONE).unwrap();
    let before = stream.state().0.to_owned();
    let (h, c) = (Array3::zeros((2, 3, 20)), Array3::zeros((2, 2, 20)));
    let said = stream.set_state(h.view().into_dyn(), c.view().into_dyn()).unwrap_err().to_string();
    assert_eq!(said, "state.c: expected shape (2, 3, 20) for num_layers 2 and bidirectional False, got (2, 2, 20)");
    let mut narrow = Array2::zeros((3, 19));
    assert!(stream.step(data.x.index_axis(Axis(0), 1), narrow.view_mut(), &ALONE).is_err());
    assert_same_bits("h", stream.state().0, before.view());
}
