//! The released autoencoder's size.
#![allow(missing_docs, reason = "a test binary")]

use rectiflow_nn::{Device, Module, Params, Precision, RandomInit};
use rectiflow_vae::{Vae, VaeConfig};

#[test]
fn the_released_autoencoder_has_as_many_parameters_as_its_file() {
    let config = VaeConfig::released();
    let vae = Vae::new(&config, Params::new(&mut RandomInit { seed: 0 }, &Device::flex(), Precision::F32));
    assert_eq!(vae.num_params(), 83_819_683);
    assert_eq!(config.downsampling(), 8);
}
