/// MT19937: M. Matsumoto and T. Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998. The names of the
/// constants are the paper's, table II, and the seeding is that of its authors' 2002 version.
#[derive(Clone, Debug)]
pub(super) struct MersenneTwister {
    state: [u32; N],
    /// The next word of `state` to hand out; `N`: the state has to be renewed first.
    next: usize,
}

const N: usize = 624;
const M: usize = 397;
const A: u32 = 0x9908_b0df;
const UPPER_BIT: u32 = 0x8000_0000;

impl MersenneTwister {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let mixed = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = mixed.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        MersenneTwister { state, next: N }
    }

    pub(super) fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.renew();
        }
        let word = self.state[self.next];
        self.next += 1;
        temper(word)
    }

    /// The recurrence, eq. 2.1, for the next `N` words.
    fn renew(&mut self) {
        for k in 0..N {
            let joined = self.state[k] & UPPER_BIT | self.state[(k + 1) % N] & !UPPER_BIT;
            let twist = if joined & 1 == 0 { 0 } else { A };
            self.state[k] = self.state[(k + M) % N] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }
}

/// Eq. 2.2 to 2.5.
fn temper(mut y: u32) -> u32 {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c_5680;
    y ^= (y << 15) & 0xefc6_0000;
    y ^ (y >> 18)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_word_is_the_one_the_cpp_standard_demands() {
        // ISO C++ [rand.predef]: the 10000th number of a default std::mt19937 (seed 5489).
        let mut words = MersenneTwister::new(5489);
        let last = (0..10_000).map(|_| words.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
