//! What a cell is made of: which gates are there, peepholes, coupling, activations.
//!
//! The order of the gates lives here and nowhere else: `i, f, g, o`, absent gates left out. A gate that has no rows
//! (absent, or the coupled forget gate) is the constant 1, or `1 - i`.

use crate::error::{Error, Result};

/// What squashes the cell's input (`g`) or its output (`a` in `h = o * a(c)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The hyperbolic tangent.
    Tanh,
    /// Nothing: the value itself.
    Identity,
}

/// A description of an LSTM cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CellSpec {
    /// Is there an input gate? Without one `i = 1`.
    pub input_gate: bool,
    /// Is there a forget gate? Without one `f = 1`, as in 1997.
    pub forget_gate: bool,
    /// Is there an output gate? Without one `o = 1`.
    pub output_gate: bool,
    /// `f = 1 - i`, with no rows of its own. Takes the place of the forget gate.
    pub coupled: bool,
    /// Do the gates see the cell's state, through one weight a unit?
    pub peephole: bool,
    /// The squashing of the cell's input.
    pub input_activation: Activation,
    /// The squashing of the cell's output.
    pub output_activation: Activation,
}

impl Default for CellSpec {
    fn default() -> Self {
        Self::GERS_1999
    }
}

/// Where each gate's rows are, counted in gates from the first row; `None` where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateRows {
    /// Input gate.
    pub i: Option<usize>,
    /// Forget gate.
    pub f: Option<usize>,
    /// Cell input: always there.
    pub g: usize,
    /// Output gate.
    pub o: Option<usize>,
    /// How many there are: G.
    pub count: usize,
}

/// Where each gate's peephole is, counted in rows of the peephole array; `None` where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeepholeRows {
    /// Input gate.
    pub i: Option<usize>,
    /// Forget gate.
    pub f: Option<usize>,
    /// Output gate.
    pub o: Option<usize>,
    /// How many there are.
    pub count: usize,
}

impl CellSpec {
    /// Today's default: three gates, no peepholes, tanh at both ends (Gers, Schmidhuber & Cummins 1999).
    pub const GERS_1999: Self = Self {
        input_gate: true,
        forget_gate: true,
        output_gate: true,
        coupled: false,
        peephole: false,
        input_activation: Activation::Tanh,
        output_activation: Activation::Tanh,
    };

    /// Refuses the combinations that contradict themselves.
    pub fn check(&self) -> Result<()> {
        if self.coupled && !self.input_gate {
            return Err(Error::cell("coupled=True needs the input gate, since f = 1 - i, but input_gate is False"));
        }
        if self.coupled && !self.forget_gate {
            return Err(Error::cell(
                "coupled=True replaces the forget gate by f = 1 - i, but forget_gate is False (f = 1): \
                 leave forget_gate=True, or drop coupled",
            ));
        }
        if self.peephole && !(self.input_gate || self.forget_gate || self.output_gate) {
            return Err(Error::cell(
                "peephole=True needs a gate to look from, but input_gate, forget_gate and output_gate are all False",
            ));
        }
        Ok(())
    }

    /// The gates that have rows, in order.
    pub const fn gate_rows(&self) -> GateRows {
        let mut next = 0;
        let i = take(&mut next, self.input_gate);
        let f = take(&mut next, self.forget_gate && !self.coupled);
        let g = next;
        next += 1;
        let o = take(&mut next, self.output_gate);
        GateRows { i, f, g, o, count: next }
    }

    /// The gates that have rows, as words.
    pub(crate) const fn gate_names(&self) -> &'static str {
        match (self.input_gate, self.forget_gate && !self.coupled, self.output_gate) {
            (true, true, true) => "i, f, g, o",
            (true, true, false) => "i, f, g",
            (true, false, true) => "i, g, o",
            (true, false, false) => "i, g",
            (false, true, true) => "f, g, o",
            (false, true, false) => "f, g",
            (false, false, true) => "g, o",
            (false, false, false) => "g",
        }
    }

    /// The gates that have a peephole, in order.
    pub const fn peephole_rows(&self) -> PeepholeRows {
        let mut next = 0;
        let i = take(&mut next, self.peephole && self.input_gate);
        let f = take(&mut next, self.peephole && self.forget_gate && !self.coupled);
        let o = take(&mut next, self.peephole && self.output_gate);
        PeepholeRows { i, f, o, count: next }
    }
}

/// The next place, if it is taken.
const fn take(next: &mut usize, present: bool) -> Option<usize> {
    if !present {
        return None;
    }
    *next += 1;
    Some(*next - 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Every allowed combination of the flags.
    pub(crate) fn all() -> Vec<CellSpec> {
        let act = [Activation::Tanh, Activation::Identity];
        (0u32..128)
            .map(|bits| {
                let on = |n: u32| bits >> n & 1 == 0;
                CellSpec {
                    input_gate: on(0),
                    forget_gate: on(1),
                    output_gate: on(2),
                    coupled: !on(3),
                    peephole: !on(4),
                    input_activation: act[usize::from(!on(5))],
                    output_activation: act[usize::from(!on(6))],
                }
            })
            .filter(|cell| cell.check().is_ok())
            .collect()
    }

    #[test]
    fn gates_stand_in_order_and_absent_ones_take_no_rows() {
        let rows = CellSpec::GERS_1999.gate_rows();
        assert_eq!((rows.i, rows.f, rows.g, rows.o, rows.count), (Some(0), Some(1), 2, Some(3), 4));
        let coupled = CellSpec { coupled: true, peephole: true, ..CellSpec::GERS_1999 };
        let rows = coupled.gate_rows();
        assert_eq!((rows.i, rows.f, rows.g, rows.o, rows.count), (Some(0), None, 1, Some(2), 3));
        let peepholes = coupled.peephole_rows();
        assert_eq!((peepholes.i, peepholes.f, peepholes.o, peepholes.count), (Some(0), None, Some(1), 2));
    }

    #[test]
    fn contradictions_are_refused() {
        // 8 sets of gates x 4 activations, as many with peepholes but for the set without gates, and the coupled
        // cells: 2 output gates x 2 peepholes x 4.
        assert_eq!(all().len(), 8 * 4 + 7 * 4 + 2 * 2 * 4);
    }
}
