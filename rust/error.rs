//! Everything that can go wrong, in one place: each sentence names the argument, what was expected, and what came.
//!
//! The constructors are cold, so that the code that calls them stays small.

use std::fmt;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A shape or a value that does not fit the others.
    Value(String),
    /// Not enough memory for a workspace of that many bytes.
    Memory(usize),
    /// The caller's cancel hook said stop.
    Cancelled,
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cold]
fn value(what: String) -> Error {
    Error::Value(what)
}

impl Error {
    #[cold]
    pub(crate) fn cell(what: &str) -> Self {
        value(format!("cell: {what}"))
    }

    #[cold]
    pub(crate) fn rank(name: &str, axes: &str, got: &[usize]) -> Self {
        let hint = match got {
            [_] => format!("; add the axis with {name}[:, None]?"),
            [1, _, _] => format!("; drop the first axis with {name}[0]?"),
            _ => String::new(),
        };
        value(format!("{name}: expected 2 axes, {axes}, got shape {}{hint}", Shape(got)))
    }

    #[cold]
    pub(crate) fn projection_missing(w_hh: &[usize], hidden_size: usize, why: &str) -> Self {
        let (expected, projection) = (Shape(&[w_hh[0], hidden_size]), Shape(&[w_hh[1], hidden_size]));
        value(format!(
            "w_hh: expected shape {expected} {why}, got {}; give a projection w_hr of shape {projection}?",
            Shape(w_hh)
        ))
    }

    #[cold]
    pub(crate) fn shape(name: &str, expected: &[usize], got: &[usize], why: &str) -> Self {
        let (want, have) = (Shape(expected), Shape(got));
        value(format!("{name}: expected shape {want} {why}, got {have}{}", mend(expected, got)))
    }

    #[cold]
    pub(crate) fn gate_rows(got: &[usize], gates: &str, transposed: bool) -> Self {
        let count = gates.split(' ').count();
        let hint = if transposed { "; transpose it?" } else { "" };
        value(format!(
            "w_ih: expected {count} rows or a multiple of them, one block for each of the gates {gates}, got shape {}{hint}",
            Shape(got)
        ))
    }

    #[cold]
    pub(crate) fn peephole_missing(rows: usize, hidden_size: usize) -> Self {
        value(format!(
            "peephole: expected shape ({rows}, {hidden_size}), as the cell has peephole=True, got None; \
             give the array, or a cell without peepholes"
        ))
    }

    #[cold]
    pub(crate) fn peephole_unused(got: &[usize]) -> Self {
        value(format!(
            "peephole: expected None, as the cell has peephole=False, got shape {}; \
             use a cell with peephole=True, such as CellSpec.peephole_lstm()",
            Shape(got)
        ))
    }

    #[cold]
    pub(crate) fn input_rank(got: &[usize], batch_first: bool) -> Self {
        let batch = if batch_first { "(N, T, I)" } else { "(T, N, I)" };
        let hint = match got {
            [_] => "; add the axis of the features with x[:, None]?",
            [1, _, _, _] => "; drop the first axis with x[0]?",
            _ => "",
        };
        value(format!("x: expected {batch} or one sequence (T, I), got shape {}{hint}", Shape(got)))
    }

    #[cold]
    pub(crate) fn features(got: &[usize], input_size: usize) -> Self {
        let hint = if got.contains(&input_size) { "; move the features to the last axis?" } else { "" };
        value(format!(
            "x: expected {input_size} features in the last axis, as w_ih has columns, got shape {}{hint}",
            Shape(got)
        ))
    }

    #[cold]
    pub(crate) fn overflow(sizes: &[usize]) -> Self {
        value(format!("x: sizes T, N, G, H = {} are more than an array can have", Shape(sizes)))
    }

    #[cold]
    pub(crate) fn length(n: Option<usize>, got: i64, steps: usize) -> Self {
        let place = n.map_or_else(String::new, |n| format!("[{n}]"));
        value(format!("lengths{place}: expected 0 to {steps} (the steps of x), got {got}"))
    }

    #[cold]
    pub(crate) fn stacked_shape(
        name: &str,
        expected: &[usize],
        got: &[usize],
        layers: usize,
        bidirectional: bool,
    ) -> Self {
        let bidirectional = if bidirectional { "True" } else { "False" };
        value(format!(
            "{name}: expected shape {} for num_layers {layers} and bidirectional {bidirectional}, got {}",
            Shape(expected),
            Shape(got)
        ))
    }

    #[cold]
    pub(crate) fn step_shape(batch: usize, input_size: usize, got: &[usize]) -> Self {
        let one = if batch == 1 { format!(" or ({input_size},)") } else { String::new() };
        value(format!("x_t: expected shape ({batch}, {input_size}){one}, got {}", Shape(got)))
    }

    #[cold]
    pub(crate) fn step_out(expected: &[usize], got: std::result::Result<&[usize], &str>) -> Self {
        let got = got.map_or_else(str::to_string, |shape| Shape(shape).to_string());
        value(format!("out: expected an array of shape {}, got {got}", Shape(expected)))
    }

    #[cold]
    pub(crate) fn gradients() -> Self {
        value("gradients: expected room for one gradient of each weight, shaped as it is, and for no other".into())
    }

    #[cold]
    pub(crate) fn layout(name: &str) -> Self {
        value(format!("{name}: expected an array whose last axis is contiguous; copy it?"))
    }
}

/// The likely mend of a shape.
fn mend(expected: &[usize], got: &[usize]) -> &'static str {
    match (expected, got) {
        ([1, rest @ ..], got) if rest == got => "; add the first axis with [None]?",
        ([first, 1, rest @ ..], [other, others @ ..]) if first == other && rest == others => {
            "; add the second axis with [:, None]?"
        }
        (expected, [1, rest @ ..]) if rest == expected => "; drop the first axis with [0]?",
        (expected, [_, rest @ ..]) if rest == expected => "; take one of them with [0]?",
        ([a, b], [c, d]) if (a, b) == (d, c) => "; transpose it?",
        ([a, b, rest], [c, d, other]) if (a, b, rest) == (d, c, other) => "; swap the first two axes?",
        _ => "",
    }
}

/// A shape as Python writes it.
struct Shape<'a>(&'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "({one},)"),
            many => {
                f.write_str("(")?;
                for (k, n) in many.iter().enumerate() {
                    write!(f, "{}{n}", if k == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(what) => f.write_str(what),
            Self::Memory(bytes) => write!(f, "could not allocate a workspace of {bytes} bytes"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {}
