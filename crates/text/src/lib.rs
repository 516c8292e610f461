//! Prompt to conditioning: tokenizers, CLIP and T5 encoders, assembly.
