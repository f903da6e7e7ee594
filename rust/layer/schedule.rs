//! Which sequences take part in which step.
//!
//! Sequences are ordered by length, longest first, so that those still running are always the first `active(t)` of the
//! order: the cost of a ragged batch follows the sum of its lengths.

use crate::error::Result;
use crate::simd::memory::try_vec;

/// The order of a batch in time.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// Sequences, longest first, and their lengths.
    order: Vec<(usize, usize)>,
    reverse: bool,
}

impl Schedule {
    /// Lengths have been checked to be from 0 to `steps`.
    pub(crate) fn new(steps: usize, batch: usize, lengths: Option<&[i64]>, reverse: bool) -> Result<Self> {
        let mut order = try_vec(batch, (0, steps))?;
        for (n, place) in order.iter_mut().enumerate() {
            place.0 = n;
            if let Some(lengths) = lengths {
                place.1 = usize::try_from(lengths[n]).expect("checked");
            }
        }
        // In place and without memory, hence by two keys: equal lengths keep their order.
        order.sort_unstable_by_key(|&(n, length)| (usize::MAX - length, n));
        Ok(Self { order, reverse })
    }

    /// How many steps the longest sequence has.
    pub(crate) fn steps(&self) -> usize {
        self.order.first().map_or(0, |&(_, length)| length)
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
            Some(&(_, shortest)) if shortest > t => self.order.len(),
            _ => self.order.partition_point(|&(_, length)| length > t),
        }
    }

    /// The `j`-th sequence of the order.
    #[inline(always)]
    pub(crate) fn sequence(&self, j: usize) -> usize {
        self.order[j].0
    }

    /// The time before `t` of the `j`-th sequence; `None` where `t` is its first.
    #[inline(always)]
    pub(crate) fn before(&self, t: usize, j: usize) -> Option<usize> {
        if self.reverse { Some(t + 1).filter(|&t| t < self.order[j].1) } else { t.checked_sub(1) }
    }

    /// The last time of the `j`-th sequence; `None` where it is empty.
    pub(crate) fn last(&self, j: usize) -> Option<usize> {
        let (_, length) = self.order[j];
        if self.reverse { Some(0).filter(|_| length > 0) } else { length.checked_sub(1) }
    }

    /// The steps `(t, j)` that there are, in the order of the times `s`.
    pub(crate) fn cells(&self, s: std::ops::Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        s.map(|s| self.time(s)).flat_map(|t| (0..self.active(t)).map(move |j| (t, j)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_come_first_and_time_may_run_back() {
        let forward = Schedule::new(4, 4, Some(&[1, 0, 3, 1]), false).unwrap();
        assert_eq!(forward.cells(0..3).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!([0, 1, 2, 3].map(|j| forward.sequence(j)), [2, 0, 3, 1]);
        assert_eq!((forward.before(0, 0), forward.before(2, 0)), (None, Some(1)));
        assert_eq!((forward.last(0), forward.last(3)), (Some(2), None));
        let back = Schedule::new(4, 4, Some(&[1, 0, 3, 1]), true).unwrap();
        assert_eq!(back.cells(0..3).map(|(t, _)| t).collect::<Vec<_>>(), [2, 1, 0, 0, 0]);
        assert_eq!((back.before(0, 0), back.before(0, 1), back.before(2, 0)), (Some(1), None, None));
        assert_eq!(Schedule::new(4, 2, None, false).unwrap().active(3), 2);
    }
}
