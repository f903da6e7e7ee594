"""Make the constants of exponential and logarithm under the activations; they stand in rust/kernel/activation.rs.

    python tests/make_coefficients.py

The exponential. With n = round(z log2 e) and r = z - n ln2 in [-ln2/2, ln2/2], the kernel computes

    p = r + r^2 Q(r)  (about e^r - 1),    e^z - 1 = 2^n p + (2^n - 1),    e^z = 2^n p + 2^n.

Near 0, tanh is as accurate as p is *relative to itself*, so Q is the polynomial for which the largest
|r^2 (Q(r) - (e^r - 1 - r)/r^2) / (e^r - 1)| is least: found by Remez exchange in 60 decimal digits, its
coefficients then rounded to nearest. Refining the rounded ones would gain little: most of the error of
sigmoid and tanh comes from the roundings after p.

The logarithm. With s = u / (2 + u) and w = s^2, for u in [0, 1] and so w in [0, 1/9],

    ln(1 + u) = 2 atanh(s) = 2s (1 + w L(w)),

and L is made in the same manner, for the least error of the whole relative to itself.

Needs NumPy only (for the shortest decimals of a float32). Deterministic; takes a second.
"""

from decimal import Decimal, getcontext
from functools import reduce

import numpy as np

LN2 = Decimal("0.693147180559945309417232121458176568075500134360255254120680")
GRID = 501  # steps over the interval (odd, so 0 is no point) in the search for extrema


def exponential(r):
    """What Q approximates, and the weight of an error there. Not for r = 0, where the weight is 0."""
    expm1 = r.exp() - 1
    return (expm1 - r) / r**2, r**2 / abs(expm1)


def logarithm(w):
    """What L approximates, and the weight of an error there. Not for w = 0, where the weight is 0."""
    s = w.sqrt()
    ratio = ((1 + s) / (1 - s)).ln() / 2 / s
    return (ratio - 1) / w, w / ratio


def solve(rows):
    """Gauss-Jordan with row pivots on [A | b]; returns A^-1 b."""
    size = len(rows)
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [a / rows[i][i] for a in rows[i]]
        for k in range(size):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def spread(x):
    """Draw the points of [-1, 1] to the ends, where the extrema crowd (a cosine might differ by machine)."""
    return x * (3 - x * x) / 2


def extrema(error, grid):
    """The place and size of the largest |error| in each run of one sign."""
    errors = [error(r) for r in grid]
    runs = []
    for i, e in enumerate(errors):
        if not runs or (e > 0) != (errors[runs[-1]] > 0):
            runs.append(i)
        elif abs(e) > abs(errors[runs[-1]]):
            runs[-1] = i
    places = []
    for i in runs:
        r = grid[i]
        if 0 < i < len(grid) - 1:  # the vertex of the parabola through three points
            (x0, x1, x2), (y0, y1, y2) = grid[i - 1 : i + 2], errors[i - 1 : i + 2]
            d1, d2 = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
            r = (x0 + x1) / 2 - d1 * (x2 - x0) / (d2 - d1) / 2
        places.append((r, abs(error(r))))
    return places


def remez(degree, target, low, high):
    """The minimax polynomial from `low` to `high`, highest degree first, and its largest weighted error."""
    middle, half, count = (low + high) / 2, (high - low) / 2, degree + 2
    grid = [middle + half * spread(Decimal(2 * k - GRID) / GRID) for k in range(GRID + 1)]
    if not low:  # where the weight is 0
        del grid[0]
    places = [middle + half * spread((2 * k - count + Decimal("1.25")) / count) for k in range(count)]
    for _ in range(50):
        rows = []
        for i, r in enumerate(places):
            y, weight = target(r)
            rows.append([*(r**k for k in range(degree, -1, -1)), (-1) ** i / weight, y])
        *q, level = solve(rows)

        def error(r, q=q):
            y, weight = target(r)
            return (reduce(lambda total, c: total * r + c, q) - y) * weight

        found = extrema(error, grid)
        while len(found) > count:  # alternation needs only so many: drop the smaller end
            found.pop(0 if found[0][1] < found[-1][1] else -1)
        assert len(found) == count, "an alternation was lost"
        places = [r for r, _ in found]
        worst = max(size for _, size in found)
        if worst / abs(level) < 1 + Decimal("1e-8"):
            return q, worst
    raise AssertionError("the exchange does not converge")


def show(dtype, name, x):
    """One constant as a Rust line: the shortest decimal that reads back, and the bits."""
    rounded = dtype(float(x))
    bits = f"0x{int(rounded.view(f'u{rounded.nbytes}')):0{2 * rounded.nbytes}x}"
    print(f"    {np.format_float_scientific(rounded, trim='-', exp_digits=1)}, // {name} {bits}")


if __name__ == "__main__":
    getcontext().prec = 60
    for dtype, degree in ((np.float32, 4), (np.float64, 9)):
        q, worst = remez(degree, exponential, -LN2 / 2, LN2 / 2)
        print(f"{dtype.__name__}, largest error of p {float(worst):.2e} of itself before rounding")
        for k, c in enumerate(reversed(q)):
            show(dtype, f"r^{k}", c)
        high = dtype(float(LN2))
        show(dtype, "LOG2E", 1 / LN2)
        show(dtype, "LN2_HI", LN2)
        show(dtype, "LN2_LO", LN2 - Decimal(float(high)))
    for dtype, degree in ((np.float32, 3), (np.float64, 9)):
        q, worst = remez(degree, logarithm, Decimal(0), 1 / Decimal(9))
        print(f"{dtype.__name__}, largest error of the logarithm {float(worst):.2e} of itself before rounding")
        for k, c in enumerate(reversed(q)):
            show(dtype, f"w^{k}", c)
