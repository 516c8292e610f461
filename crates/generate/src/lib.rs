//! The generate journey: prompt to picture, and the picture's file.
