//! The 16-channel autoencoder: picture to latent and back.
