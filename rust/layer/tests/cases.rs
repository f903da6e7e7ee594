//! Calls to test with: their sizes, their numbers, and how these lie in memory.

use ndarray::{
    Array, Array1, Array2, Array3, ArrayView3, ArrayViewMut3, ArrayViewMutD, Axis, RemoveAxis, ShapeBuilder, Slice, s,
};

use crate::cell::CellSpec;
use crate::kernel::tile::{BLOCK_ROWS, DEPTH};
use crate::layer::{Input, State, Weights};
use crate::testing::{Depth, Real, Rng};

/// How arrays of sequences lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    TimeMajor,
    BatchFirst,
    /// A part of a larger array, time running backwards in memory, NaN all around.
    Part,
}

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) cell: CellSpec,
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) input: usize,
    pub(super) hidden: usize,
    pub(super) projection: Option<usize>,
    pub(super) bias: bool,
    pub(super) state: bool,
    pub(super) lengths: Option<Vec<i64>>,
    pub(super) reverse: bool,
    pub(super) layout: Layout,
    pub(super) dy: bool,
    pub(super) dstate: bool,
    pub(super) need_dx: bool,
    pub(super) seed: u64,
}

impl Case {
    /// With everything there is but lengths and a projection.
    pub(super) fn new(cell: CellSpec, [steps, batch, input, hidden]: [usize; 4]) -> Self {
        Self {
            cell,
            steps,
            batch,
            input,
            hidden,
            projection: None,
            bias: true,
            state: true,
            lengths: None,
            reverse: false,
            layout: Layout::TimeMajor,
            dy: true,
            dstate: true,
            need_dx: true,
            seed: 1,
        }
    }

    /// Sizes on both sides of every lane count (1, 2, 4, 8, 16) and tile (2, 3, 5, 6 rows; 1 to 4 blocks), and each
    /// option as often as not.
    pub(super) fn draw(rng: &mut Rng, cell: CellSpec) -> Self {
        const WIDTHS: &[usize] = &[1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 15, 16, 17, 19, 23, 31, 33, 37];
        let (steps, batch) = (1 + rng.below(6), rng.pick(&[1, 1, 2, 3, 4, 5, 6, 7, 11, 13]));
        let lengths = (0..batch).map(|_| rng.below(steps + 1) as i64).collect();
        let mut heads = || rng.below(2) == 0;
        let options: [bool; 8] = std::array::from_fn(|_| heads());
        Self {
            cell,
            steps,
            batch,
            input: rng.pick(&[0, 1, 2, 3, 5, 8, 9, 16, 17]),
            hidden: rng.pick(WIDTHS),
            projection: options[0].then(|| rng.pick(WIDTHS)),
            bias: options[1],
            state: options[2],
            lengths: options[3].then_some(lengths),
            reverse: options[4],
            layout: rng.pick(&[Layout::TimeMajor, Layout::BatchFirst, Layout::Part]),
            dy: options[5] || !options[6],
            dstate: options[6],
            need_dx: options[7],
            seed: rng.bits(),
        }
    }

    /// Several chunks of time, and several chains of a weight's gradient.
    ///
    /// A step has at least 13 · 4 · 37 pre-activations, so 256 KiB hold 34 steps in single, 17 in double precision (less
    /// where they are padded to vectors), and 13 · 40 steps are more than two times 256.
    pub(super) fn many_chunks() -> Vec<Self> {
        let peephole = CellSpec { peephole: true, ..CellSpec::GERS_1999 };
        let lengths = (0..13).map(|n| [40, 36, 35, 0, 17, 1][n % 6]).collect();
        vec![
            Self::new(CellSpec::GERS_1999, [40, 13, 3, 37]),
            Self { reverse: true, lengths: Some(lengths), ..Self::new(peephole, [40, 13, 3, 37]) },
            Self { projection: Some(5), ..Self::new(CellSpec::GERS_1999, [40, 13, 2, 40]) },
            // A step alone is more than a chunk, and more rows than share a pass over a panel.
            Self::new(CellSpec::GERS_1999, [3, BLOCK_ROWS + 7, 1, 125]),
            // Products that are too deep for one pass, forward and backward, some of whose sequences end early.
            Self {
                lengths: Some((0..30).map(|n| 2 - n % 3 / 2).collect()),
                ..Self::new(peephole, [2, 30, DEPTH + 9, 5])
            },
            Self { projection: Some(3), ..Self::new(peephole, [2, 30, 1, DEPTH / 4 + 3]) },
            Self { reverse: true, ..Self::new(CellSpec::GERS_1999, [2, 30, 1, DEPTH / 4 + 3]) },
        ]
    }

    pub(super) fn output(&self) -> usize {
        self.projection.unwrap_or(self.hidden)
    }

    pub(super) fn length(&self, n: usize) -> usize {
        self.lengths.as_ref().map_or(self.steps, |lengths| lengths[n] as usize)
    }

    /// For [`crate::testing::tolerance`]: `over_batch` for gradients of weights.
    pub(super) fn depth(&self, backward: bool, over_batch: bool) -> Depth {
        let batch = if over_batch { self.batch } else { 1 };
        Depth { width: self.input + self.hidden, steps: self.steps, batch, backward }
    }
}

/// The numbers of a call, as (T, N, ·).
#[derive(Clone, Debug)]
pub(super) struct Data<T> {
    pub(super) w_ih: Array2<T>,
    pub(super) w_hh: Array2<T>,
    pub(super) b: Option<Array1<T>>,
    pub(super) peephole: Option<Array2<T>>,
    pub(super) w_hr: Option<Array2<T>>,
    pub(super) x: Array3<T>,
    pub(super) state: Option<(Array2<T>, Array2<T>)>,
    pub(super) dy: Option<Array3<T>>,
    pub(super) dstate: Option<(Array2<T>, Array2<T>)>,
}

impl<T: Real> Data<T> {
    /// The same numbers in single and double precision.
    pub(super) fn new(case: &Case) -> Self {
        let Case { cell, steps, batch, input, hidden, .. } = *case;
        let (output, rows) = (case.output(), cell.gate_rows().count * hidden);
        let peepholes = cell.peephole_rows().count;
        let mut rng = Rng::new(case.seed);
        // Weights of about 1 / sqrt(I + P), by whole powers of two.
        let weight = -((input + output).ilog2() as i32).div_euclid(2);
        Self {
            w_ih: numbers(&mut rng, (rows, input), weight),
            w_hh: numbers(&mut rng, (rows, output), weight),
            b: case.bias.then(|| numbers(&mut rng, rows, 0)),
            peephole: (peepholes > 0).then(|| numbers(&mut rng, (peepholes, hidden), -1)),
            w_hr: case.projection.map(|_| numbers(&mut rng, (output, hidden), weight)),
            x: numbers(&mut rng, (steps, batch, input), 1),
            state: case.state.then(|| (numbers(&mut rng, (batch, output), 0), numbers(&mut rng, (batch, hidden), 0))),
            dy: case.dy.then(|| numbers(&mut rng, (steps, batch, output), 0)),
            dstate: case.dstate.then(|| (numbers(&mut rng, (batch, output), 0), numbers(&mut rng, (batch, hidden), 0))),
        }
    }

    pub(super) fn weights(&self) -> Weights<'_, T> {
        Weights {
            w_ih: self.w_ih.view(),
            w_hh: self.w_hh.view(),
            b: self.b.as_ref().map(|b| b.view()),
            peephole: self.peephole.as_ref().map(|peephole| peephole.view()),
            w_hr: self.w_hr.as_ref().map(|w_hr| w_hr.view()),
        }
    }

    pub(super) fn input<'a>(&'a self, case: &'a Case) -> Input<'a, T> {
        let Case { lengths, reverse, .. } = case;
        Input { x: self.x.view(), state: view(&self.state), lengths: lengths.as_deref(), reverse: *reverse }
    }

    /// What a loss can be differentiated by, named as in `Backwarded::named`.
    pub(super) fn parameters_mut(&mut self) -> Vec<(&'static str, ArrayViewMutD<'_, T>)> {
        let mut all = vec![
            ("w_ih", self.w_ih.view_mut().into_dyn()),
            ("w_hh", self.w_hh.view_mut().into_dyn()),
            ("x", self.x.view_mut().into_dyn()),
        ];
        all.extend(self.b.as_mut().map(|b| ("b", b.view_mut().into_dyn())));
        all.extend(self.peephole.as_mut().map(|peephole| ("peephole", peephole.view_mut().into_dyn())));
        all.extend(self.w_hr.as_mut().map(|w_hr| ("w_hr", w_hr.view_mut().into_dyn())));
        if let Some((h, c)) = &mut self.state {
            all.extend([("state.h", h.view_mut().into_dyn()), ("state.c", c.view_mut().into_dyn())]);
        }
        all
    }

    /// Some of the sequences of a call, as a call of its own.
    pub(super) fn sequences(&self, case: &Case, range: std::ops::Range<usize>) -> (Case, Self) {
        let mut part = case.clone();
        part.batch = range.len();
        part.lengths = case.lengths.as_ref().map(|lengths| lengths[range.clone()].to_vec());
        let cut = |array: &Array3<T>| array.slice(s![.., range.clone(), ..]).to_owned();
        let state = |(h, c): &(Array2<T>, Array2<T>)| {
            (h.slice(s![range.clone(), ..]).to_owned(), c.slice(s![range.clone(), ..]).to_owned())
        };
        let data = Self {
            x: cut(&self.x),
            dy: self.dy.as_ref().map(cut),
            state: self.state.as_ref().map(state),
            dstate: self.dstate.as_ref().map(state),
            ..self.clone()
        };
        (part, data)
    }

    /// Some of the steps of a call, as a call of its own; states are to be filled in.
    pub(super) fn steps(&self, case: &Case, range: std::ops::Range<usize>) -> (Case, Self) {
        let mut part = case.clone();
        part.steps = range.len();
        let clamp = |&length: &i64| (length - range.start as i64).clamp(0, range.len() as i64);
        part.lengths = case.lengths.as_ref().map(|lengths| lengths.iter().map(clamp).collect());
        let cut = |array: &Array3<T>| array.slice(s![range.clone(), .., ..]).to_owned();
        (part, Self { x: cut(&self.x), dy: self.dy.as_ref().map(cut), ..self.clone() })
    }

    /// `fill` in `x` and `dy` past each sequence's end.
    pub(super) fn fill_past_the_ends(&mut self, case: &Case, fill: T) {
        fill_past_the_ends(case, &mut self.x, fill);
        if let Some(dy) = &mut self.dy {
            fill_past_the_ends(case, dy, fill);
        }
    }
}

/// `fill` past each sequence's end.
pub(super) fn fill_past_the_ends<T: Real, D: RemoveAxis>(case: &Case, array: &mut Array<T, D>, fill: T) {
    for n in 0..case.batch {
        let mut past = array.slice_axis_mut(Axis(0), Slice::from(case.length(n)..));
        past.index_axis_mut(Axis(1), n).fill(fill);
    }
}

fn numbers<T: Real, S: ShapeBuilder>(rng: &mut Rng, shape: S, exponent: i32) -> Array<T, S::Dim> {
    Array::from_shape_simple_fn(shape, || rng.number(exponent))
}

pub(super) fn view<T>(state: &Option<(Array2<T>, Array2<T>)>) -> Option<State<'_, T>> {
    state.as_ref().map(|(h, c)| State { h: h.view(), c: c.view() })
}

impl Layout {
    /// An array of sequences, to lie so; `around` is what it has around it.
    pub(super) fn store<T: Real>(self, array: &Array3<T>, around: T) -> Array3<T> {
        let (steps, batch, width) = array.dim();
        let shape = match self {
            Self::TimeMajor => (steps, batch, width),
            Self::BatchFirst => (batch, steps, width),
            Self::Part => (steps, batch + 1, width + 3),
        };
        let mut stored = Array3::from_elem(shape, around);
        self.view_mut(&mut stored).assign(array);
        stored
    }

    /// What lies so, as (T, N, ·).
    pub(super) fn view<T>(self, stored: &Array3<T>) -> ArrayView3<'_, T> {
        match self {
            Self::TimeMajor => stored.view(),
            Self::BatchFirst => stored.view().permuted_axes([1, 0, 2]),
            Self::Part => stored.slice(s![..;-1, 1.., 2..stored.dim().2 - 1]),
        }
    }

    /// The same, to write to.
    pub(super) fn view_mut<T>(self, stored: &mut Array3<T>) -> ArrayViewMut3<'_, T> {
        match self {
            Self::TimeMajor => stored.view_mut(),
            Self::BatchFirst => stored.view_mut().permuted_axes([1, 0, 2]),
            Self::Part => {
                let end = stored.dim().2 - 1;
                stored.slice_mut(s![..;-1, 1.., 2..end])
            }
        }
    }
}
