//! Calls made of a fuzzer's bytes.
//!
//! Each choice takes a byte, and where there are none left it is 0: any bytes are a call, and a changed byte changes one
//! thing about it. Numbers are drawn from a seed among the bytes.

use super::super::cases::{Case, Data, Layout};
use crate::cell::{Activation, CellSpec};
use crate::kernel::tile::{BLOCK_ROWS, DEPTH};
use crate::layer::Control;
use crate::layer::share::{FORCED, Split, WINDOW};
use crate::simd::InstructionSet;
use crate::testing::Real;

/// Pre-activations of a call, at most: a chunk of time has 32,768 of them in double precision. And multiplications.
///
/// Most calls have only a sixteenth of these, which keeps hundreds of them within a second.
const MOST: [usize; 2] = [40_000, 250_000];

/// A few of each on both sides of every lane count (1, 2, 4, 8, 16) and tile (2 to 6 rows, 1 to 4 blocks), small ones
/// more often.
const STEPS: &[usize] = &[1, 2, 3, 4, 1, 2, 3, 5, 0, 6, 9, 17, 40, 300];
const BATCHES: &[usize] = &[1, 2, 1, 3, 4, 1, 5, 6, 7, 11, 13, 0, 23, 24, 30, BLOCK_ROWS + 7];
const ROWS: &[usize] = &[1, 2, 3, 0, 5, 7, 30, BLOCK_ROWS + 3, 257, 600];
const INPUTS: &[usize] = &[1, 2, 3, 0, 4, 5, 8, 9, 16, 17, 33, 65, DEPTH + 9];
const WIDTHS: &[usize] = &[1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 15, 16, 17, 19, 23, 31, 33, 37, 64, 65, 150, DEPTH / 4 + 3];

/// Bytes, and how far they have been read.
pub(super) struct Source<'a>(pub(super) &'a [u8]);

/// How a call runs, none of which may change an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) isa: InstructionSet,
    pub(super) threads: usize,
    split: Option<Split>,
    window: Option<usize>,
    pub(super) layout: Layout,
}

impl Way {
    /// Runs `call` so.
    pub(super) fn run<R>(self, call: impl FnOnce(&Control<'_>) -> R) -> R {
        let before = WINDOW.get();
        FORCED.set(self.split);
        WINDOW.set(self.window);
        let result = call(&Control { threads: self.threads, cancel: &|| false });
        FORCED.set(None);
        WINDOW.set(before);
        result
    }
}

impl Source<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// From 0 to `end - 1`, for an `end` of at most 256.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(super) fn heads(&mut self) -> bool {
        self.below(2) == 1
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(super) fn bits(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// One that this CPU has.
    pub(super) fn isa(&mut self) -> InstructionSet {
        let all: Vec<_> = InstructionSet::available().collect();
        self.pick(&all)
    }

    pub(super) fn layout(&mut self) -> Layout {
        self.pick(&[Layout::TimeMajor, Layout::BatchFirst, Layout::Part])
    }

    /// Seldom on several threads: to wake them takes longer than all the rest.
    pub(super) fn way(&mut self) -> Way {
        let threads = self.pick(&[1, 1, 1, 1, 1, 1, 2, 3]);
        Way {
            isa: self.isa(),
            threads,
            split: (threads > 1).then(|| self.pick(&[Split::Batch, Split::Units])),
            window: self.pick(&[None, Some(1), Some(7), Some(40), Some(300)]),
            layout: self.layout(),
        }
    }

    /// Any cell that is none of those which contradict themselves; a `tame` one has parameters of a moderate size, exact
    /// in both types.
    pub(super) fn cell(&mut self, tame: bool) -> CellSpec {
        let flags = self.byte();
        let on = |n: u8| flags >> n & 1 == 0;
        let mut cell = CellSpec {
            input_gate: on(0),
            forget_gate: on(1),
            output_gate: on(2),
            coupled: !on(3),
            peephole: !on(4),
            ..CellSpec::GERS_1999
        };
        if !on(5) {
            cell.gate_activation = self.activation(tame);
            cell.input_activation = self.activation(tame);
            cell.output_activation = self.activation(tame);
        }
        if !on(6) {
            (cell.gate_clip, cell.cell_clip) = (self.clip(tame), self.clip(tame));
        }
        // Else seldom: there has to be something to couple.
        cell.input_gate |= cell.coupled;
        cell.forget_gate |= cell.coupled;
        cell.peephole &= cell.input_gate || cell.forget_gate || cell.output_gate;
        cell
    }

    fn activation(&mut self, tame: bool) -> Activation {
        let (name, parameters) = self.pick(&Activation::ALL);
        let parameters: Vec<_> = parameters.iter().map(|_| self.parameter(tame)).collect();
        Activation::new(name, &parameters).expect("as many as it has")
    }

    fn parameter(&mut self, tame: bool) -> f64 {
        if tame || self.heads() { f64::from(self.byte() as i8) / 32.0 } else { f64::from_bits(self.bits()) }
    }

    fn clip(&mut self, tame: bool) -> f64 {
        match self.parameter(tame).abs() {
            clip if clip > 0.0 => clip,
            _ => f64::INFINITY,
        }
    }

    /// A call that fits.
    pub(super) fn case(&mut self, tame: bool) -> Case {
        let cell = self.cell(tame);
        let [mut steps, mut batch] = [self.pick(STEPS), self.pick(BATCHES)];
        let [input, mut hidden] = [self.pick(INPUTS), self.pick(WIDTHS)];
        let (options, size) = (self.byte(), self.below(16));
        let on = |n: u8| options >> n & 1 == 0;
        let mut projection = (!on(0)).then(|| self.pick(WIDTHS));
        let gates = cell.gate_rows().count;
        let most = MOST.map(|most| if size == 15 { most } else { most / 16 });
        let too_large = |[steps, batch, hidden, output]: [usize; 4]| {
            let cells = steps.max(1) * batch.max(1) * gates * hidden;
            cells > most[0] || cells * (input + output) > most[1]
        };
        while too_large([steps, batch, hidden, projection.unwrap_or(hidden)]) {
            match [steps, batch, hidden, projection.unwrap_or(0)].iter().max() {
                Some(&most) if most == steps => steps -= steps.div_ceil(4),
                Some(&most) if most == batch => batch -= batch.div_ceil(4),
                Some(&most) if most == hidden => hidden -= hidden / 4 + 1,
                _ => projection = projection.map(|output| output.div_ceil(2)),
            }
        }
        let lengths = (!on(1)).then(|| (0..batch).map(|_| self.below(steps.min(255) + 1) as i64).collect());
        Case {
            cell,
            steps,
            batch,
            input,
            hidden,
            projection,
            bias: on(2),
            state: on(3),
            lengths,
            reverse: !on(4),
            layout: self.layout(),
            dy: on(5),
            dstate: on(6),
            need_dx: on(7),
            seed: self.bits(),
        }
    }

    /// Rows, inputs and outputs of a linear read-out.
    pub(super) fn rows(&mut self) -> [usize; 3] {
        let [mut rows, inputs, outputs] = [self.pick(ROWS), self.pick(INPUTS), self.pick(INPUTS)];
        while rows * inputs * outputs > MOST[1] / 16 {
            rows -= rows.div_ceil(4);
        }
        [rows, inputs, outputs]
    }

    /// Some of the numbers of a call replaced by any others: NaN, infinite, subnormal, huge.
    pub(super) fn spoil<T: Real>(&mut self, data: &mut Data<T>) {
        for _ in 0..1 + self.below(6) {
            let (which, place) = (self.below(11), self.below(256));
            let number = if self.heads() { self.pick(T::SPECIAL) } else { T::from_low_bits(self.bits()) };
            let everywhere = self.below(4) == 0;
            let (mut dy, mut dstate) = (data.dy.take(), data.dstate.take());
            let mut all: Vec<_> = data.parameters_mut().into_iter().map(|(_, array)| array).collect();
            all.extend(dy.as_mut().map(|dy| dy.view_mut().into_dyn()));
            if let Some((h, c)) = &mut dstate {
                all.extend([h.view_mut().into_dyn(), c.view_mut().into_dyn()]);
            }
            let count = all.len();
            let array = &mut all[which % count];
            if everywhere {
                array.fill(number);
            } else if !array.is_empty() {
                let place = place % array.len();
                *array.iter_mut().nth(place).expect("in bounds") = number;
            }
            (data.dy, data.dstate) = (dy, dstate);
        }
    }
}
