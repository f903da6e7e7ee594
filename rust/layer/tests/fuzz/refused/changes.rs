//! Arrays of a call, some of which are not as they have to be.

use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, ArrayViewMut, Axis, Dimension, IxDyn, Slice};

use super::super::source::Source;
use super::Fits;
use crate::testing::Real;

/// Changes arrays as the bytes say, and keeps in mind whether the call still fits.
pub(super) struct Changes<'s, 'b> {
    pub(super) source: &'s mut Source<'b>,
    /// Which of the arrays that come are to be changed, by their number.
    which: [usize; 2],
    count: usize,
    pub(super) fits: Fits,
}

impl<'s, 'b> Changes<'s, 'b> {
    /// Of so many arrays that are to come.
    pub(super) fn among(count: usize, source: &'s mut Source<'b>) -> Self {
        let which = [source.below(count), if source.heads() { source.below(count) } else { usize::MAX }];
        Self { source, which, count: 0, fits: Fits::Yes }
    }

    /// Is it the turn of the next array?
    pub(super) fn turn(&mut self) -> bool {
        self.count += 1;
        self.which.contains(&(self.count - 1))
    }

    pub(super) fn refused(&mut self) {
        self.fits = Fits::No;
    }

    /// An array of as many axes, and as a rule of another shape.
    fn other<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> ArrayD<T> {
        let mut shape = right.shape().to_vec();
        let axis = self.source.below(shape.len());
        match self.source.below(5) {
            0 => shape[axis] += 1,
            1 => shape[axis] = shape[axis].saturating_sub(1),
            2 => shape[axis] = 0,
            3 => shape.rotate_left(1),
            _ => shape[axis] = self.source.below(40),
        }
        if shape == right.shape() {
            return right.clone().into_dyn();
        }
        self.refused();
        ArrayD::from_elem(shape, T::ONE)
    }

    /// An array to read: as it is, or of another shape, strided, or one number that stands for very many.
    pub(super) fn read<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> Stored<T> {
        let plain = |array: ArrayD<T>| Stored { array, strided: false, broadcast: None };
        if !self.turn() {
            return plain(right.clone().into_dyn());
        }
        match self.source.below(4) {
            0 => self.strided(right),
            1 => {
                let mut shape = right.shape().to_vec();
                let axis = self.source.below(shape.len());
                shape[axis] = 1 << (20 + self.source.below(42));
                let array = ArrayD::from_elem(IxDyn(&[]), T::ONE);
                if array.broadcast(IxDyn(&shape)).is_none() {
                    return plain(right.clone().into_dyn());
                }
                self.refused();
                Stored { array, strided: false, broadcast: Some(shape) }
            }
            _ => plain(self.other(right)),
        }
    }

    /// An array to write to.
    pub(super) fn write<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> Stored<T> {
        let plain = |array: ArrayD<T>| Stored { array, strided: false, broadcast: None };
        if !self.turn() {
            return plain(right.clone().into_dyn());
        }
        match self.source.below(4) {
            0 => self.strided(right),
            _ => plain(self.other(right)),
        }
    }

    /// The same where it is there; else, and the other way round, sometimes.
    pub(super) fn write_if<T: Real, D: Dimension>(
        &mut self,
        right: Option<&Array<T, D>>,
        shape: &[usize],
    ) -> Option<Stored<T>> {
        let there = right.is_some() != (self.turn() && self.source.heads());
        if there != right.is_some() {
            self.refused();
        }
        match right {
            Some(right) => Some(self.write(right)).filter(|_| there),
            None => there.then(|| {
                let mut shape = shape.to_vec();
                if self.source.heads() {
                    shape[0] = 0;
                }
                Stored { array: ArrayD::from_elem(shape, T::ZERO), strided: false, broadcast: None }
            }),
        }
    }

    fn strided<T: Real, D: Dimension>(&mut self, right: &Array<T, D>) -> Stored<T> {
        let last = Axis(right.ndim() - 1);
        let mut shape = right.shape().to_vec();
        shape[last.0] *= 2;
        let mut array = ArrayD::from_elem(shape, T::ZERO);
        array.slice_axis_mut(last, Slice::new(0, None, 2)).assign(&right.view().into_dyn());
        if self.fits == Fits::Yes {
            self.fits = Fits::Perhaps;
        }
        Stored { array, strided: true, broadcast: None }
    }
}

/// An array, and how it is to be seen.
pub(super) struct Stored<T> {
    array: ArrayD<T>,
    strided: bool,
    broadcast: Option<Vec<usize>>,
}

impl<T: Real> Stored<T> {
    pub(super) fn view<D: Dimension>(&self) -> ArrayView<'_, T, D> {
        let view: ArrayViewD<'_, T> = match &self.broadcast {
            Some(shape) => self.array.broadcast(IxDyn(shape)).expect("was tried"),
            None => self.array.view(),
        };
        let mut view = view.into_dimensionality::<D>().expect("as many axes");
        if self.strided {
            view.slice_axis_inplace(Axis(view.ndim() - 1), Slice::new(0, None, 2));
        }
        view
    }

    pub(super) fn view_mut<D: Dimension>(&mut self) -> ArrayViewMut<'_, T, D> {
        let mut view = self.array.view_mut().into_dimensionality::<D>().expect("as many axes");
        if self.strided {
            view.slice_axis_inplace(Axis(view.ndim() - 1), Slice::new(0, None, 2));
        }
        view
    }

    pub(super) fn is<D: Dimension>(&self, right: &Array<T, D>) -> bool {
        self.view::<D>().iter().map(|x| x.bits()).eq(right.iter().map(|x| x.bits()))
    }
}
