//! What a cell is made of: which gates are there, peepholes, coupling, activations.
//!
//! The order of the gates lives here and nowhere else: `i, f, g, o`, absent gates left out. A gate that has no rows
//! (absent, or the coupled forget gate) is the constant 1, or `1 - i`.

use crate::error::{Error, Result};

/// What squashes the gates, the cell's input (`g`) or its output (`a` in `h = o * a(c)`): ONNX's eleven, and the identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// Nothing: the value itself.
    Identity,
    /// `max(0, x)`
    Relu,
    /// `alpha x + beta`
    Affine {
        /// Slope.
        alpha: f64,
        /// Value at 0.
        beta: f64,
    },
    /// `x`, below 0 `alpha x`
    LeakyRelu {
        /// Slope below 0.
        alpha: f64,
    },
    /// `x` above `alpha`, else 0
    ThresholdedRelu {
        /// Threshold.
        alpha: f64,
    },
    /// `alpha tanh(beta x)`
    ScaledTanh {
        /// Height.
        alpha: f64,
        /// Steepness.
        beta: f64,
    },
    /// `alpha x + beta`, between 0 and 1
    HardSigmoid {
        /// Slope.
        alpha: f64,
        /// Value at 0.
        beta: f64,
    },
    /// `x`, below 0 `alpha (e^x - 1)`
    Elu {
        /// How far below 0 it goes.
        alpha: f64,
    },
    /// `x / (1 + |x|)`
    Softsign,
    /// `ln(1 + e^x)`
    Softplus,
}

impl Activation {
    /// Every one by name, and the values that its parameters alpha and beta take where none are given. They are those of
    /// the ONNX operators of the same names; ONNX has none for the affine function and the scaled tanh.
    pub const ALL: [(&'static str, &'static [Option<f64>]); 12] = [
        ("sigmoid", &[]),
        ("tanh", &[]),
        ("identity", &[]),
        ("relu", &[]),
        ("affine", &[None, None]),
        ("leaky_relu", &[Some(0.01)]),
        ("thresholded_relu", &[Some(1.0)]),
        ("scaled_tanh", &[None, None]),
        ("hard_sigmoid", &[Some(0.2), Some(0.5)]),
        ("elu", &[Some(1.0)]),
        ("softsign", &[]),
        ("softplus", &[]),
    ];

    /// The one of that name, with all its parameters; `None` where there is no such.
    pub fn new(name: &str, parameters: &[f64]) -> Option<Self> {
        Some(match (name, parameters) {
            ("sigmoid", []) => Self::Sigmoid,
            ("tanh", []) => Self::Tanh,
            ("identity", []) => Self::Identity,
            ("relu", []) => Self::Relu,
            ("affine", &[alpha, beta]) => Self::Affine { alpha, beta },
            ("leaky_relu", &[alpha]) => Self::LeakyRelu { alpha },
            ("thresholded_relu", &[alpha]) => Self::ThresholdedRelu { alpha },
            ("scaled_tanh", &[alpha, beta]) => Self::ScaledTanh { alpha, beta },
            ("hard_sigmoid", &[alpha, beta]) => Self::HardSigmoid { alpha, beta },
            ("elu", &[alpha]) => Self::Elu { alpha },
            ("softsign", []) => Self::Softsign,
            ("softplus", []) => Self::Softplus,
            _ => return None,
        })
    }

    /// Does its value tell its slope, which is all that a tape has? Where it falls and rises again, it does not.
    const fn is_monotonic(self) -> bool {
        match self {
            Self::LeakyRelu { alpha } | Self::ThresholdedRelu { alpha } | Self::Elu { alpha } => alpha >= 0.0,
            _ => true,
        }
    }
}

/// A description of an LSTM cell.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// The squashing of `i`, `f` and `o`.
    pub gate_activation: Activation,
    /// What goes into an activation of a gate or of the input, peephole and all, is cut to within this of 0: the clip of
    /// ONNX Runtime. Infinite: nothing is cut.
    pub gate_clip: f64,
    /// The state is cut to within this of 0: the clip of TensorFlow and Tesseract. Infinite: nothing is cut.
    pub cell_clip: f64,
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
        gate_activation: Activation::Sigmoid,
        gate_clip: f64::INFINITY,
        cell_clip: f64::INFINITY,
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
        for (name, clip) in [("gate_clip", self.gate_clip), ("cell_clip", self.cell_clip)] {
            if clip.is_nan() || clip <= 0.0 {
                return Err(Error::cell(&format!("{name} must be positive, got {clip}")));
            }
        }
        Ok(())
    }

    /// Refuses what can only run forward.
    pub(crate) fn check_gradient(&self) -> Result<()> {
        let activations = [
            ("gate_activation", self.gate_activation),
            ("input_activation", self.input_activation),
            ("output_activation", self.output_activation),
        ];
        for (name, activation) in activations {
            if !activation.is_monotonic() {
                return Err(Error::cell(&format!(
                    "{name} with a negative alpha runs forward only: its slope does not follow from its value, \
                     which is what a tape holds"
                )));
            }
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
                    ..CellSpec::GERS_1999
                }
            })
            .filter(|cell| cell.check().is_ok())
            .collect()
    }

    /// The cells of both.
    pub(crate) fn every() -> Vec<CellSpec> {
        [all(), unusual()].concat()
    }

    /// Each activation in each place, and both ways of clipping, with peepholes and without.
    pub(crate) fn unusual() -> Vec<CellSpec> {
        let plain = CellSpec::GERS_1999;
        let peephole = CellSpec { peephole: true, ..plain };
        let coupled = CellSpec { coupled: true, ..peephole };
        let all = [
            Activation::Sigmoid,
            Activation::Tanh,
            Activation::Identity,
            Activation::Relu,
            Activation::Affine { alpha: -0.375, beta: 0.25 },
            Activation::LeakyRelu { alpha: 0.0625 },
            Activation::ThresholdedRelu { alpha: 0.125 },
            Activation::ScaledTanh { alpha: 1.75, beta: 0.625 },
            Activation::HardSigmoid { alpha: 0.1875, beta: 0.5 },
            Activation::Elu { alpha: 0.75 },
            Activation::Softsign,
            Activation::Softplus,
        ];
        let mut cells = Vec::new();
        for (k, &activation) in all.iter().enumerate() {
            let bases = [plain, peephole, coupled];
            let clip = 0.75 + 0.125 * k as f64;
            cells.extend([
                CellSpec { gate_activation: activation, ..bases[k % 3] },
                CellSpec { input_activation: activation, ..bases[(k + 1) % 3] },
                CellSpec { output_activation: activation, ..bases[(k + 2) % 3] },
                CellSpec {
                    gate_activation: activation,
                    input_activation: all[11 - k],
                    gate_clip: clip,
                    ..bases[k % 3]
                },
                CellSpec { output_activation: activation, cell_clip: clip, gate_clip: clip, ..bases[(k + 1) % 3] },
            ]);
        }
        cells.extend([plain, peephole, coupled].map(|base| CellSpec { cell_clip: 0.5, ..base }));
        cells.push(CellSpec { input_gate: false, cell_clip: 0.75, ..peephole });
        cells.push(CellSpec { output_gate: false, gate_clip: 0.5, ..peephole });
        cells
    }

    #[test]
    fn every_activation_has_its_name_and_its_parameters() {
        for (name, defaults) in Activation::ALL {
            let given = vec![0.5; defaults.len()];
            assert!(Activation::new(name, &given).is_some(), "{name}");
            assert!(Activation::new(name, &[given, vec![0.5]].concat()).is_none(), "{name}");
        }
        assert!(Activation::new("Tanh", &[]).is_none());
    }

    #[test]
    fn what_falls_and_rises_again_runs_forward_only() {
        for cell in unusual() {
            assert!(cell.check().is_ok() && cell.check_gradient().is_ok(), "{cell:?}");
        }
        let falling = Activation::LeakyRelu { alpha: -0.5 };
        for cell in [
            CellSpec { gate_activation: falling, ..CellSpec::GERS_1999 },
            CellSpec { input_activation: falling, ..CellSpec::GERS_1999 },
            CellSpec { output_activation: falling, ..CellSpec::GERS_1999 },
        ] {
            assert!(cell.check().is_ok() && cell.check_gradient().is_err(), "{cell:?}");
        }
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
