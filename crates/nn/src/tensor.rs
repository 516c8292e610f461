use burn::tensor::{Device, Int, Tensor, TensorData};

/// A tensor of f32 values on `device`.
///
/// # Panics
/// `values` does not hold as many elements as `shape` says: a bug of the caller.
pub fn from_f32<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "values for shape {shape:?}");
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Token ids `[1, L]` on `device`.
pub fn from_ids(ids: &[u32], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let length = ids.len();
    Tensor::from_data(TensorData::new(ids, [1, length]), device)
}

/// Token ids `[B, L]` on `device`, a row for each text.
///
/// # Panics
/// The texts have different numbers of ids: a bug of the caller.
pub fn from_id_rows(texts: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let length = texts.first().map_or(0, |ids| ids.len());
    let ids: Vec<i64> = texts.iter().flat_map(|ids| ids.iter().map(|&id| i64::from(id))).collect();
    assert_eq!(ids.len(), texts.len() * length, "texts of one length");
    Tensor::from_data(TensorData::new(ids, [texts.len(), length]), device)
}

/// The values, in row-major order, as f32.
pub fn to_f32<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().cast(burn::tensor::DType::F32).into_data();
    data.as_slice::<f32>().expect("the tensor was cast to f32").to_vec()
}

/// Whether no value is NaN or infinite. Reads the whole tensor once.
pub fn is_finite<const D: usize>(tensor: &Tensor<D>) -> bool {
    if !crate::ops::runs_on_kernels(&tensor.device()) {
        // One number comes from another device: 0, unless something times 0 is no number.
        return to_f32(&(tensor.clone() * 0.0).sum())[0] == 0.0;
    }
    to_f32(tensor).iter().all(|value| value.is_finite())
}
