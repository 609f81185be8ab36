//! A few equations over GF(256), solved.
//!
//! The field is that of RFC 6330, section 5.7: bytes as polynomials over GF(2), modulo x⁸ + x⁴ + x³ + x² + 1.

/// What x⁸ is in the field.
const REDUCTION: u8 = 0x1d;

/// The sum of unknown symbols, each times its coefficient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Equation {
    /// One coefficient for each unknown symbol.
    pub(super) coefficients: Vec<u8>,
    /// The sum, byte for byte.
    pub(super) sum: Vec<u8>,
}

/// An equation times each power of two below 2⁸: any multiple of it is a sum of some of these. Exclusive ors of whole
/// symbols are several times as fast as a table of products, byte for byte.
struct Multiples([Equation; 8]);

impl Multiples {
    fn of(equation: Equation) -> Self {
        let mut last = equation;
        Self(std::array::from_fn(|_| {
            let next = last.doubled();
            std::mem::replace(&mut last, next)
        }))
    }

    /// Adds the equation, times a factor, to another one.
    fn add_to(&self, other: &mut Equation, factor: u8) {
        for (bit, multiple) in self.0.iter().enumerate() {
            if factor >> bit & 1 != 0 {
                other.add(multiple);
            }
        }
    }
}

/// The product of two elements of the field.
fn product(a: u8, b: u8) -> u8 {
    let terms = (0..8).scan(a, |power, bit| {
        let term = if b >> bit & 1 == 0 { 0 } else { *power };
        *power = doubled(*power);
        Some(term)
    });
    terms.fold(0, |sum, term| sum ^ term)
}

fn doubled(byte: u8) -> u8 {
    (byte << 1) ^ if byte & 0x80 == 0 { 0 } else { REDUCTION }
}

/// The element whose product with another one is one; none for zero.
fn inverse(of: u8) -> Option<u8> {
    (1..=u8::MAX).find(|other| product(of, *other) == 1)
}

impl Equation {
    fn coefficient(&self, unknown: usize) -> u8 {
        self.coefficients.get(unknown).copied().unwrap_or_default()
    }

    fn doubled(&self) -> Self {
        let each = |bytes: &[u8]| bytes.iter().map(|byte| doubled(*byte)).collect();
        Self {
            coefficients: each(&self.coefficients),
            sum: each(&self.sum),
        }
    }

    fn add(&mut self, other: &Self) {
        let pairs = |own: &mut [u8], other: &[u8]| {
            for (own, other) in own.iter_mut().zip(other) {
                *own ^= other;
            }
        };
        pairs(&mut self.coefficients, &other.coefficients);
        pairs(&mut self.sum, &other.sum);
    }
}

/// The unknown symbols, by Gauss-Jordan elimination; `None` if the equations do not determine them or contradict each
/// other. Costs as many additions of a symbol as there are equations times unknowns.
pub(super) fn solve(mut equations: Vec<Equation>, unknowns: usize) -> Option<Vec<Vec<u8>>> {
    let mut solved = Vec::with_capacity(unknowns);
    for unknown in 0..unknowns {
        let pivot = equations.iter().position(|e| e.coefficient(unknown) != 0)?;
        let pivot = equations.swap_remove(pivot);
        let scale = inverse(pivot.coefficient(unknown))?;
        let mut own = Equation {
            coefficients: vec![0; pivot.coefficients.len()],
            sum: vec![0; pivot.sum.len()],
        };
        let multiples = Multiples::of(pivot);
        multiples.add_to(&mut own, scale);
        for other in solved.iter_mut().chain(&mut equations) {
            let factor = product(other.coefficient(unknown), scale);
            multiples.add_to(other, factor);
        }
        solved.push(own);
    }
    let contradicts = |spare: &Equation| spare.sum.iter().any(|byte| *byte != 0);
    if equations.iter().any(contradicts) {
        return None;
    }
    Some(solved.into_iter().map(|solved| solved.sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication as the RFC defines it: of polynomials, and then the remainder.
    fn product_of_polynomials(a: u8, b: u8) -> u8 {
        let mut sum = 0_u16;
        for bit in 0..8 {
            if b & (1 << bit) != 0 {
                sum ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if sum & (1 << bit) != 0 {
                sum ^= 0x11d << (bit - 8);
            }
        }
        u8::try_from(sum).unwrap()
    }

    #[test]
    fn products_and_inverses_are_those_of_the_field() {
        for a in 0..=255 {
            let multiples = Multiples::of(Equation {
                coefficients: vec![a],
                sum: vec![a, 0],
            });
            for b in 0..=255 {
                let expected = product_of_polynomials(a, b);
                assert_eq!(product(a, b), expected, "{a} times {b}");
                let mut sum = Equation {
                    coefficients: vec![0],
                    sum: vec![7, 9],
                };
                multiples.add_to(&mut sum, b);
                assert_eq!(sum.coefficients, [expected], "{a} times {b}");
                assert_eq!(sum.sum, [expected ^ 7, 9], "{a} times {b}");
            }
            match inverse(a) {
                None => assert_eq!(a, 0),
                Some(inverse) => assert_eq!(product(a, inverse), 1),
            }
        }
    }

    fn equations(coefficients: &[[u8; 3]], unknown: &[[u8; 2]; 3]) -> Vec<Equation> {
        let equation = |row: &[u8; 3]| {
            let byte = |n: usize| {
                let terms = row.iter().zip(unknown);
                terms.fold(0, |sum, (c, u)| sum ^ product(*c, u[n]))
            };
            Equation {
                coefficients: row.to_vec(),
                sum: vec![byte(0), byte(1)],
            }
        };
        coefficients.iter().map(equation).collect()
    }

    #[test]
    fn equations_are_solved_unless_they_leave_something_open_or_contradict_each_other() {
        let unknown = [[7, 200], [0, 1], [255, 3]];
        let enough = [[0, 0, 9], [1, 2, 3], [0, 5, 0], [4, 4, 4]];
        let all = equations(&enough, &unknown);
        assert_eq!(solve(all.clone(), 3).unwrap(), unknown.map(|u| u.to_vec()));
        assert_eq!(solve(all[..2].to_vec(), 3), None);
        let alike = equations(&[[1, 2, 3], [2, 4, 6], [0, 0, 1]], &unknown);
        assert_eq!(solve(alike, 3), None);
        let mut wrong = all;
        wrong[3].sum[1] ^= 1;
        assert_eq!(solve(wrong, 3), None);
    }
}
