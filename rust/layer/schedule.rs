//! Which sequences take part in which step.
//!
//! Sequences are ordered by length, longest first, so that those still running are always the first `active(t)` of the
//! order: the cost of a ragged batch follows the sum of its lengths.

use std::ops::Range;

use crate::error::Result;
use crate::simd::memory::try_resize;
use crate::threads::Worker;

/// The order of a batch in time, or of one worker's share of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule<'a> {
    /// Sequences of the batch, longest first, and their lengths.
    order: &'a [(usize, usize)],
    /// Of these, the first one, and then each so many further on.
    first: usize,
    stride: usize,
    count: usize,
    reverse: bool,
}

impl<'a> Schedule<'a> {
    /// Lengths have been checked to be from 0 to `steps`.
    pub(crate) fn new(
        order: &'a mut Vec<(usize, usize)>,
        steps: usize,
        batch: usize,
        lengths: Option<&[i64]>,
        reverse: bool,
    ) -> Result<Self> {
        try_resize(order, batch, (0, 0))?;
        for (n, place) in order.iter_mut().enumerate() {
            *place = (n, lengths.map_or(steps, |lengths| usize::try_from(lengths[n]).expect("checked")));
        }
        if lengths.is_some() {
            // In place and without memory, hence by two keys: equal lengths keep their order.
            order.sort_unstable_by_key(|&(n, length)| (usize::MAX - length, n));
        }
        Ok(Self { order, first: 0, stride: 1, count: batch, reverse })
    }

    /// A worker's share: neighbours where all are as long, else dealt out like cards.
    pub(crate) fn deal(self, worker: &Worker<'_>) -> Self {
        let equal = self.order.first().map(|&(_, length)| length) == self.order.last().map(|&(_, length)| length);
        if equal {
            let own = worker.part(self.count);
            Self { first: own.start, count: own.len(), ..self }
        } else {
            let (first, stride) = (worker.index(), worker.count());
            Self { first, stride, count: self.count.saturating_sub(first).div_ceil(stride), ..self }
        }
    }

    /// How many sequences there are.
    pub(crate) fn batch(&self) -> usize {
        self.count
    }

    /// How many steps the longest sequence has.
    pub(crate) fn steps(&self) -> usize {
        if self.count > 0 { self.order[self.first].1 } else { 0 }
    }

    /// Fills in the place in the order of each sequence.
    pub(crate) fn places(&self, place: &mut Vec<usize>) -> Result<()> {
        try_resize(place, self.count, 0)?;
        for j in 0..self.count {
            place[self.sequence(j)] = j;
        }
        Ok(())
    }

    #[inline(always)]
    fn at(&self, j: usize) -> (usize, usize) {
        self.order[self.first + j * self.stride]
    }

    /// Does time run back?
    pub(crate) fn runs_back(&self) -> bool {
        self.reverse
    }

    /// The time of the `s`-th step.
    #[inline(always)]
    pub(crate) fn time(&self, s: usize) -> usize {
        if self.reverse { self.steps() - 1 - s } else { s }
    }

    /// How many sequences run at time `t`: the first ones of the order.
    #[inline(always)]
    pub(crate) fn active(&self, t: usize) -> usize {
        match self.order.last() {
            Some(&(_, shortest)) if shortest > t => self.count,
            _ => {
                let active = self.order.partition_point(|&(_, length)| length > t);
                active.saturating_sub(self.first).div_ceil(self.stride).min(self.count)
            }
        }
    }

    /// The `j`-th sequence of the order.
    #[inline(always)]
    pub(crate) fn sequence(&self, j: usize) -> usize {
        self.at(j).0
    }

    /// The time before `t` of the `j`-th sequence; `None` where `t` is its first.
    #[inline(always)]
    pub(crate) fn before(&self, t: usize, j: usize) -> Option<usize> {
        if self.reverse { Some(t + 1).filter(|&t| t < self.at(j).1) } else { t.checked_sub(1) }
    }

    /// The last time of the `j`-th sequence; `None` where it is empty.
    pub(crate) fn last(&self, j: usize) -> Option<usize> {
        let (_, length) = self.at(j);
        if self.reverse { Some(0).filter(|_| length > 0) } else { length.checked_sub(1) }
    }

    /// The steps `(t, j)` from the `s`-th time on, whole times and at least one, as far as `most` and the room for them
    /// go: the time behind them, and how many there are.
    pub(crate) fn chunk(&self, s: usize, most: usize, cells: &mut [(usize, usize)]) -> (usize, usize) {
        let (mut end, mut count) = (s, 0);
        while end < self.steps() {
            let t = self.time(end);
            let active = self.active(t);
            if end > s && count + active > most {
                break;
            }
            for (j, cell) in cells[count..count + active].iter_mut().enumerate() {
                *cell = (t, j);
            }
            (end, count) = (end + 1, count + active);
        }
        (end, count)
    }

    /// The steps `(t, j)` that there are, in the order of the times `s`.
    pub(crate) fn cells(&self, s: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        s.map(|s| self.time(s)).flat_map(|t| (0..self.active(t)).map(move |j| (t, j)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_come_first_and_time_may_run_back() {
        let mut memory = Vec::new();
        let forward = Schedule::new(&mut memory, 4, 4, Some(&[1, 0, 3, 1]), false).unwrap();
        assert_eq!(forward.cells(0..3).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!([0, 1, 2, 3].map(|j| forward.sequence(j)), [2, 0, 3, 1]);
        assert_eq!((forward.before(0, 0), forward.before(2, 0)), (None, Some(1)));
        assert_eq!((forward.last(0), forward.last(3)), (Some(2), None));
        let back = Schedule::new(&mut memory, 4, 4, Some(&[1, 0, 3, 1]), true).unwrap();
        assert_eq!(back.cells(0..3).map(|(t, _)| t).collect::<Vec<_>>(), [2, 1, 0, 0, 0]);
        assert_eq!((back.before(0, 0), back.before(0, 1), back.before(2, 0)), (Some(1), None, None));
        assert_eq!(Schedule::new(&mut memory, 4, 2, None, false).unwrap().active(3), 2);
    }
}
