//! The linear read-out: bit for bit the chains that its documentation says.

use ndarray::{Array1, Array2};

use crate::error::{Error, Result};
use crate::layer::share::{FORCED, Split};
use crate::layer::{Control, Linear, LinearGradients, Workspace};
use crate::simd::InstructionSet;
use crate::testing::{Real, Rng, assert_same_bits, on_every_isa};

on_every_isa! {
    each_output_is_its_chain,
    what_does_not_fit_is_refused,
    it_can_be_stopped,
}

/// Rows, inputs, outputs: about each lane count, several blocks of rows, and chains that end within the rows.
const SIZES: [[usize; 3]; 14] = [
    [0, 0, 0],
    [0, 3, 2],
    [2, 3, 0],
    [1, 1, 1],
    [1, 70, 33],
    [2, 0, 3],
    [3, 5, 1],
    [4, 17, 4],
    [5, 8, 16],
    [130, 9, 65],
    [257, 33, 1],
    [512, 16, 3],
    [700, 40, 31],
    [260, 1100, 5],
];

pub(super) struct Data<T> {
    x: Array2<T>,
    weight: Array2<T>,
    bias: Option<Array1<T>>,
    dy: Array2<T>,
}

/// What it has to come to.
pub(super) struct Chains<T> {
    y: Array2<T>,
    dx: Array2<T>,
    d_weight: Array2<T>,
    d_bias: Array1<T>,
}

impl<T: Real> Data<T> {
    pub(super) fn new([rows, inputs, outputs]: [usize; 3], bias: bool, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut matrix = |rows, columns| Array2::from_shape_simple_fn((rows, columns), || rng.number(2));
        let (x, weight, dy) = (matrix(rows, inputs), matrix(outputs, inputs), matrix(rows, outputs));
        let bias = bias.then(|| matrix(1, outputs).remove_axis(ndarray::Axis(0)));
        Self { x, weight, bias, dy }
    }

    fn forward(&self, isa: InstructionSet, control: &Control<'_>) -> Result<Array2<T>> {
        let mut y = Array2::from_elem(self.dy.dim(), T::of(99.0));
        let linear = Linear::new(isa, self.weight.view(), self.bias.as_ref().map(|bias| bias.view()))?;
        linear.forward(&mut Workspace::default(), self.x.view(), y.view_mut(), control)?;
        Ok(y)
    }

    fn backward(&self, isa: InstructionSet, control: &Control<'_>) -> Result<(Array2<T>, Array2<T>, Array1<T>)> {
        let untouched = T::of(99.0);
        let mut dx = Array2::from_elem(self.x.dim(), untouched);
        let mut weight = Array2::from_elem(self.weight.dim(), untouched);
        let mut bias = Array1::from_elem(self.weight.nrows(), untouched);
        let out = LinearGradients { x: Some(dx.view_mut()), weight: weight.view_mut(), bias: Some(bias.view_mut()) };
        let linear = Linear::new(isa, self.weight.view(), None)?;
        linear.backward(&mut Workspace::default(), self.x.view(), self.dy.view(), out, control)?;
        Ok((dx, weight, bias))
    }

    /// A chain over rows: 256 at a time, whose sums are added.
    fn over_rows(&self, link: impl Fn(usize, T) -> T) -> T {
        let rows: Vec<_> = (0..self.x.nrows()).collect();
        rows.chunks(256)
            .map(|rows| rows.iter().fold(T::of(0.0), |sum, &m| link(m, sum)))
            .fold(T::of(0.0), |sum, chain| sum.plus(chain))
    }

    pub(super) fn chains(&self) -> Chains<T> {
        let Self { x, weight, dy, .. } = self;
        let ((rows, inputs), outputs) = (x.dim(), weight.nrows());
        let start = |o: usize| self.bias.as_ref().map_or(T::of(0.0), |bias| bias[o]);
        Chains {
            y: Array2::from_shape_fn((rows, outputs), |(m, o)| {
                (0..inputs).fold(start(o), |sum, k| x[[m, k]].fma(weight[[o, k]], sum))
            }),
            dx: Array2::from_shape_fn((rows, inputs), |(m, k)| {
                (0..outputs).fold(T::of(0.0), |sum, o| dy[[m, o]].fma(weight[[o, k]], sum))
            }),
            d_weight: Array2::from_shape_fn((outputs, inputs), |(o, k)| {
                self.over_rows(|m, sum| dy[[m, o]].fma(x[[m, k]], sum))
            }),
            d_bias: Array1::from_shape_fn(outputs, |o| self.over_rows(|m, sum| dy[[m, o]].plus(sum))),
        }
    }

    /// Fails where an output is not its chain.
    #[track_caller]
    pub(super) fn assert_chains(&self, isa: InstructionSet, chains: &Chains<T>, control: &Control<'_>) {
        let (y, (dx, d_weight, d_bias)) = (self.forward(isa, control).unwrap(), self.backward(isa, control).unwrap());
        let what = format!("of x {:?}, weight {:?}, {} threads", self.x.dim(), self.weight.dim(), control.threads);
        assert_same_bits(&format!("y {what}"), y.view(), chains.y.view());
        assert_same_bits(&format!("dx {what}"), dx.view(), chains.dx.view());
        assert_same_bits(&format!("d_weight {what}"), d_weight.view(), chains.d_weight.view());
        assert_same_bits(&format!("d_bias {what}"), d_bias.view(), chains.d_bias.view());
    }
}

fn each_output_is_its_chain(isa: InstructionSet) {
    fn of<T: Real>(isa: InstructionSet) {
        for (seed, sizes) in (1..).zip(SIZES) {
            for bias in [true, false] {
                let data = Data::<T>::new(sizes, bias, seed);
                let chains = data.chains();
                for threads in [1, 2, 5] {
                    // However little there is to do.
                    FORCED.set((threads > 1).then_some(Split::Batch));
                    data.assert_chains(isa, &chains, &Control { threads, cancel: &|| false });
                }
            }
        }
    }
    of::<f32>(isa);
    of::<f64>(isa);
    FORCED.set(None);
}

fn what_does_not_fit_is_refused(isa: InstructionSet) {
    let control = Control { threads: 1, cancel: &|| false };
    let data = Data::<f32>::new([4, 3, 2], true, 9);
    let wrong = Data { x: Array2::zeros((4, 5)), ..Data::<f32>::new([4, 3, 2], true, 9) };
    assert!(
        matches!(wrong.forward(isa, &control), Err(Error::Value(what)) if what.starts_with("x: expected shape (4, 3)"))
    );
    assert!(wrong.backward(isa, &control).is_err());
    let wrong = Data { dy: Array2::zeros((3, 2)), ..data };
    assert!(wrong.forward(isa, &control).is_err());
    assert!(wrong.backward(isa, &control).is_err());
    let wrong = Data { bias: Some(Array1::zeros(3)), ..Data::<f64>::new([4, 3, 2], true, 9) };
    assert!(wrong.forward(isa, &control).is_err());
}

fn it_can_be_stopped(isa: InstructionSet) {
    let data = Data::<f32>::new([700, 40, 31], true, 9);
    for threads in [1, 3] {
        FORCED.set((threads > 1).then_some(Split::Batch));
        let control = Control { threads, cancel: &|| true };
        assert_eq!(data.forward(isa, &control).unwrap_err(), Error::Cancelled);
        assert_eq!(data.backward(isa, &control).unwrap_err(), Error::Cancelled);
    }
    FORCED.set(None);
}
