//! Vectors of pictures and of texts that are to find each other.

/// The cosine of the angle between two vectors; 0 where one has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// For each picture: 1 if its own text, of the same place, is the most alike among those of its group of `among`, else 0.
/// Among equals it is as often found as a draw would find it. A last group that is not full is left out.
pub fn found(pictures: &[Vec<f32>], texts: &[Vec<f32>], among: usize) -> Vec<f64> {
    let groups = pictures.chunks_exact(among).zip(texts.chunks_exact(among));
    let one = |picture: &Vec<f32>, place: usize, texts: &[Vec<f32>]| {
        let own = cosine(picture, &texts[place]);
        let all: Vec<f64> = texts.iter().map(|text| cosine(picture, text)).collect();
        let equal = all.iter().filter(|alike| **alike == own).count();
        if all.iter().any(|alike| *alike > own) { 0.0 } else { 1.0 / equal.max(1) as f64 }
    };
    groups
        .flat_map(|(pictures, texts)| {
            pictures.iter().enumerate().map(|(place, picture)| one(picture, place, texts)).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_those_of_the_angle() {
        assert!((cosine(&[1.0, 0.0], &[3.0, 3.0]) - 0.5_f64.sqrt()).abs() < 1e-9);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert!((cosine(&[1.0, 2.0], &[-2.0, -4.0]) + 1.0).abs() < 1e-9);
    }

    #[test]
    fn each_picture_looks_in_its_own_group() {
        let [a, b] = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let pictures = [a.clone(), b.clone(), a.clone(), b.clone(), a.clone()];
        let texts = [a.clone(), b.clone(), b.clone(), a.clone(), a.clone()];
        assert_eq!(found(&pictures, &texts, 2), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(found(&pictures, &texts, 5), [1.0 / 3.0, 0.5, 0.0, 0.0, 1.0 / 3.0]);
        assert!(found(&pictures, &texts, 6).is_empty());
    }
}
