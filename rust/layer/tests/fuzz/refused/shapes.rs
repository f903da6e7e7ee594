//! Shapes alone: the checks of `dims.rs`, which are asked before there is any array.

use super::super::source::Source;
use super::in_words;
use crate::dims::{Dims, LayerDims, StepDims, WeightShapes};

/// Any shapes for every check that takes shapes without arrays.
pub(super) fn shapes(source: &mut Source<'_>) {
    let mut cell = source.cell(false);
    if source.below(4) == 0 {
        (cell.coupled, cell.peephole) = (source.heads(), source.heads());
        (cell.gate_clip, cell.cell_clip) = (f64::from_bits(source.bits()), f64::from_bits(source.bits()));
    }
    let size = |source: &mut Source<'_>| match source.below(4) {
        0 => source.bits() as usize,
        1 => 1 << source.below(64),
        _ => source.below(24),
    };
    let shape = |source: &mut Source<'_>| (0..source.below(5)).map(|_| size(source)).collect::<Vec<_>>();
    let gates = cell.gate_rows().count;
    let hidden = shape(source).first().copied().unwrap_or(3);
    let [mut w_ih, mut w_hh, mut b, mut peephole, mut w_hr] = [0; 5].map(|_| shape(source));
    // As often as not they fit, but for one.
    let output = w_hr.first().copied().filter(|_| source.heads());
    let rows = gates.wrapping_mul(hidden);
    let wrong = source.below(8);
    let fit = |k: usize, shape: &mut Vec<usize>, right: Vec<usize>| {
        if k != wrong {
            *shape = right;
        }
    };
    fit(0, &mut w_ih, vec![rows, 3]);
    fit(1, &mut w_hh, vec![rows, output.unwrap_or(hidden)]);
    fit(2, &mut b, vec![rows]);
    fit(3, &mut peephole, vec![cell.peephole_rows().count, hidden]);
    fit(4, &mut w_hr, vec![output.unwrap_or(1), hidden]);
    let (b, peephole, w_hr) = (
        source.heads().then_some(&b[..]),
        (cell.peephole_rows().count > 0 || source.below(8) == 0).then_some(&peephole[..]),
        output.map(|_| &w_hr[..]),
    );
    let weights = WeightShapes { w_ih: &w_ih, w_hh: &w_hh, b, peephole, w_hr };
    let Some(layer) = in_words(LayerDims::new(cell, weights)) else { return };
    let LayerDims { input_size, hidden_size, output_size, .. } = layer;
    assert_eq!((layer.gate_rows(), input_size), (w_ih[0], w_ih[1]));
    assert_eq!((layer.gate_rows(), output_size), (w_hh[0], w_hh[1]));
    assert!(hidden_size > 0 && output_size > 0 && cell.check().is_ok());
    assert!(b.is_none_or(|b| *b == [w_ih[0]]) && w_hr.is_none_or(|w_hr| *w_hr == [output_size, hidden_size]));
    let step = shape(source);
    if let Some(dims) = in_words(StepDims::new(&layer, source.below(3), &step)) {
        assert_eq!(step.last(), Some(&input_size));
        let out = shape(source);
        assert_eq!(in_words(dims.check_out(Ok(&out))).is_some(), *dims.out == *out);
    }
    let mut x = shape(source);
    if let Some(last) = x.last_mut().filter(|_| source.below(4) > 0) {
        *last = input_size;
    }
    let Some(dims) = in_words(Dims::new(layer, &x, source.heads())) else { return };
    assert_eq!(dims.cells(), dims.steps * dims.batch);
    // The arrays of such a call can be: none has more bytes than there are.
    let _bytes = [hidden_size * layer.gates, output_size].map(|width| dims.cells().max(1) * width * size_of::<f64>());
    let mut other = |right: &[usize]| if source.heads() { right.to_vec() } else { shape(source) };
    let y = other(&dims.sequence_shape(output_size));
    assert_eq!(in_words(dims.check_sequence("y", output_size, &y)).is_some(), *y == *dims.sequence_shape(output_size));
    let (h, c) = (other(&dims.state_shape(output_size)), other(&dims.state_shape(hidden_size)));
    let right = *h == *dims.state_shape(output_size) && *c == *dims.state_shape(hidden_size);
    assert_eq!(in_words(dims.check_state("state", &h, &c)).is_some(), right);
    let stacked = other(&dims.stacked_shape(6, hidden_size));
    let right = *stacked == *dims.stacked_shape(6, hidden_size);
    assert_eq!(in_words(dims.check_stacked("state.c", 3, 2, hidden_size, &stacked)).is_some(), right);
    let (gates, c) =
        (other(&[dims.steps, dims.batch, layer.gates, hidden_size]), other(&[dims.steps, dims.batch, hidden_size]));
    let right =
        gates == [dims.steps, dims.batch, layer.gates, hidden_size] && c == [dims.steps, dims.batch, hidden_size];
    assert_eq!(in_words(dims.check_tape(&gates, &c)).is_some(), right);
    let lengths = shape(source);
    in_words(dims.check_lengths_shape(&lengths));
    let lengths: Vec<_> = lengths.into_iter().map(|length| length as i64).collect();
    let fit = lengths.len() == dims.batch && lengths.iter().all(|&n| 0 <= n && n as usize <= dims.steps);
    assert_eq!(in_words(dims.check_lengths(&lengths)).is_some(), fit);
}
