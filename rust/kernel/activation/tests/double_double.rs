//! Sigmoid and tanh to about 100 bits: numbers as unevaluated sums of two (Dekker 1971), the exponential by its Taylor
//! series. Slow, and without anything in common with what it judges.

/// `hi + lo`, where `lo` is at most half a unit in the last place of `hi`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DoubleDouble {
    pub(super) hi: f64,
    pub(super) lo: f64,
}

/// ln 2 to 159 bits, from Python's `decimal`.
const LN2: [f64; 3] = [std::f64::consts::LN_2, 2.3190468138462996e-17, 5.707708438416212e-34];

impl DoubleDouble {
    const ONE: Self = Self { hi: 1.0, lo: 0.0 };

    fn new(x: f64) -> Self {
        Self { hi: x, lo: 0.0 }
    }

    /// `a + b`, exactly (Knuth).
    fn sum(a: f64, b: f64) -> Self {
        let hi = a + b;
        let back = hi - a;
        Self { hi, lo: (a - (hi - back)) + (b - back) }
    }

    /// `a b`, exactly.
    fn product(a: f64, b: f64) -> Self {
        let hi = a * b;
        Self { hi, lo: a.mul_add(b, -hi) }
    }

    fn plus(self, b: Self) -> Self {
        let (high, low) = (Self::sum(self.hi, b.hi), Self::sum(self.lo, b.lo));
        let high = Self::sum(high.hi, high.lo + low.hi);
        Self::sum(high.hi, high.lo + low.lo)
    }

    fn minus(self, b: Self) -> Self {
        self.plus(Self { hi: -b.hi, lo: -b.lo })
    }

    fn times(self, b: Self) -> Self {
        let high = Self::product(self.hi, b.hi);
        Self::sum(high.hi, high.lo + (self.hi * b.lo + self.lo * b.hi))
    }

    fn over(self, b: Self) -> Self {
        let first = self.hi / b.hi;
        let rest = self.minus(b.times(Self::new(first)));
        let second = rest.hi / b.hi;
        let rest = rest.minus(b.times(Self::new(second)));
        Self::sum(first, second).plus(Self::new(rest.hi / b.hi))
    }

    /// By a power of two: exact.
    fn scaled(self, n: i32) -> Self {
        let power = f64::from_bits(((1023 + n) as u64) << 52);
        Self { hi: self.hi * power, lo: self.lo * power }
    }

    /// `n` and `e^r - 1`, where `z = n ln 2 + r`.
    fn exponential(z: f64) -> (i32, Self) {
        let n = (z / LN2[0]).round();
        let r = Self::new(z).minus(Self::product(n, LN2[0])).minus(Self::product(n, LN2[1]));
        let r = r.minus(Self::new(n * LN2[2]));
        // r + r^2/2 + .. + r^26/26!: what is left out is below 2^-130 of it.
        let series = (2..=26).rev().fold(Self::ONE, |sum, k| {
            let term = r.times(sum).over(Self::new(f64::from(k)));
            term.plus(Self::ONE)
        });
        (n as i32, r.times(series))
    }

    /// `2^shift e^z`: the shift keeps `lo` away from the subnormals.
    pub(super) fn exp(z: f64, shift: i32) -> Self {
        let (n, p) = Self::exponential(z);
        p.plus(Self::ONE).scaled(n + shift)
    }

    /// `1 / (1 + e^-x)`, for -300 <= x.
    pub(super) fn sigmoid(x: f64) -> Self {
        // From 300 on it is 1 to more than 400 bits.
        let e = Self::exp(-x.abs().min(300.0), 0);
        let above = if x < 0.0 { e } else { Self::ONE };
        above.over(e.plus(Self::ONE))
    }

    pub(super) fn tanh(x: f64) -> Self {
        // From 40 on it is 1 to more than 110 bits.
        let (n, p) = Self::exponential(-2.0 * x.abs().min(40.0));
        let power = Self::ONE.scaled(n);
        let m = p.scaled(n).plus(power.minus(Self::ONE));
        let quotient = m.over(m.plus(Self::new(2.0)));
        if x < 0.0 { quotient } else { Self { hi: -quotient.hi, lo: -quotient.lo } }
    }
}

/// From Python's `decimal` with 60 digits and more: `[hi, lo]` of x, sigmoid(x), tanh(x).
const KNOWN: [[[f64; 2]; 3]; 8] = [
    [[0.5, 0.0], [0.6224593312018546, -2.855738705812305e-17], [0.46211715726000974, 2.1916603238260928e-17]],
    [[-0.1, 0.0], [0.47502081252106, 2.5084310194303448e-17], [-0.09966799462495582, -3.542433877641546e-18]],
    [[3.0, 0.0], [0.9525741268224333, -3.451513898035272e-17], [0.9950547536867305, -1.2991892863562624e-17]],
    [[-19.5, 0.0], [3.398267807946847e-09, -1.1032119063468373e-25], [-1.0, 2.3096448346031572e-17]],
    [[1e-09, 0.0], [0.50000000025, -2.068509273422303e-17], [1e-09, -3.3333333333333338e-28]],
    [[-0.34657359, 0.0], [0.4142135624410278, 4.3121413091219084e-18], [-0.3333333330844687, -2.050942863888389e-17]],
    [[20.0, 0.0], [0.9999999979388464, -3.704475624817485e-17], [1.0, -8.496708510583178e-18]],
    [
        [-0.0009765625, 0.0],
        [0.49975585939440254, 1.6653345547943304e-17],
        [-0.0009765621895592603, 4.341379977097105e-20],
    ],
];

#[test]
fn the_truth_is_right_to_100_bits() {
    for [[x, _], sigmoid, tanh] in KNOWN {
        for (got, [hi, lo]) in [(DoubleDouble::sigmoid(x), sigmoid), (DoubleDouble::tanh(x), tanh)] {
            let off = (got.hi - hi) + (got.lo - lo);
            assert!(off.abs() <= hi.abs() * 2f64.powi(-100), "{x}: {got:?}, off by {off:e}");
        }
    }
    // e^-708 is 3.30755300363840783e-308 (Python's `decimal`).
    let far = DoubleDouble::exp(-708.0, 512);
    assert_eq!(far.hi * 2f64.powi(-512), 3.307553003638408e-308);
}
