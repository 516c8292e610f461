/// Random numbers that are a function of a seed, a purpose and a number: no state is carried from one use to the next,
/// so what is drawn for step 1000 is the same whether or not the steps before were taken in this process.
///
/// SplitMix64. Not torch's numbers: those, for pictures that are compared with other tools', are
/// `rectiflow_flow::noise::TorchRng`.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    /// The second half of a Box-Muller pair.
    spare: Option<f64>,
}

/// 2^64 over the golden ratio: SplitMix64's step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// The numbers of `purpose` for `number`, a step or a sample.
    pub fn keyed(seed: u64, purpose: &str, number: u64) -> Self {
        // FNV-1a: any well-mixed hash of the name does.
        let hash = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let key = hash ^ seed.wrapping_mul(STEP);
        // Neighbouring numbers must not give streams that are shifted copies of each other.
        let state = if number == 0 { key } else { mixed(key ^ mixed(number.wrapping_mul(STEP))) };
        Rng { state, spare: None }
    }

    /// Any of all 64-bit numbers.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mixed(self.state)
    }

    /// In [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number below `count`, each as likely as the others to within 2^-64 of each.
    ///
    /// # Panics
    /// `count` is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        assert!(count > 0, "a number below 0");
        ((u128::from(self.bits()) * u128::from(count)) >> 64) as u64
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Standard normal numbers.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal() as f32).collect()
    }
}

/// SplitMix64's finaliser.
pub(crate) fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_chooses_the_numbers() {
        let draw = |seed, purpose, number| Rng::keyed(seed, purpose, number).bits();
        let one = draw(1, "noise", 5);
        assert_eq!(one, draw(1, "noise", 5));
        assert!([draw(2, "noise", 5), draw(1, "sigma", 5), draw(1, "noise", 6)].iter().all(|other| *other != one));
    }

    #[test]
    fn streams_of_neighbouring_numbers_share_no_value() {
        let all: std::collections::BTreeSet<u64> = (0..200)
            .flat_map(|number| {
                let mut rng = Rng::keyed(3, "order", number);
                (0..50).map(move |_| rng.bits())
            })
            .collect();
        assert_eq!(all.len(), 200 * 50);
    }

    #[test]
    fn numbers_below_a_count_are_even_and_normals_normal() {
        let mut rng = Rng::keyed(7, "test", 1);
        let mut counts = [0_u32; 5];
        (0..50_000).for_each(|_| counts[rng.below(5) as usize] += 1);
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        let normals = rng.normals(100_000);
        let moment = |power: i32| normals.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / 100_000.0;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.1);
    }
}
