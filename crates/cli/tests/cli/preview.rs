//! What is seen of a picture while it is drawn.

use crate::support::{Desk, QUICK, pixels, text};

const SMALL: &str = "--width 64 --height 48";

#[test]
fn a_preview_is_a_small_latent_shown_large() {
    let desk = Desk::new();
    let output = desk.run(&format!("generate apple {QUICK} {SMALL} --steps 3 --out a.png --preview p.png"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!output.stderr.contains(&0x1b), "no terminal: no pictures in it");
    assert_eq!(desk.files(), ["a.png", "p.png"]);
    let preview = image::open(desk.path("p.png")).unwrap().into_rgb8();
    assert_eq!(preview.dimensions(), (64, 48));
    // Squares of one colour, and not all of one.
    for (x, y, pixel) in preview.enumerate_pixels() {
        assert_eq!(pixel, preview.get_pixel(x / 8 * 8, y / 8 * 8), "{x}, {y}");
    }
    assert!(preview.pixels().any(|pixel| pixel != preview.get_pixel(0, 0)));
    // It changes nothing.
    desk.succeed(&format!("generate apple {QUICK} {SMALL} --steps 3 --out b.png"));
    assert_eq!(pixels(&desk.path("a.png")), pixels(&desk.path("b.png")));
}

#[test]
fn the_last_step_is_always_shown() {
    let desk = Desk::new();
    let last = |how: &str| {
        desk.succeed(&format!("generate apple {QUICK} {SMALL} --steps 3 --out a.png --preview p.webp {how}"));
        pixels(&desk.path("p.webp"))
    };
    assert_eq!(last("--preview-every 2"), last(""));
    assert_eq!(last("--preview-every 100"), last(""));
}

#[test]
fn previews_that_cannot_be_are_refused_before_drawing() {
    let desk = Desk::new();
    for (how, part) in [
        ("--preview p.gif", "no .png, .jpg or .webp"),
        ("--preview no/such/p.png", "cannot be written"),
        ("--preview a.png", "`--preview` and a picture would both go to"),
        ("--preview p.png --latents-out p.png", "both go to"),
        ("--preview-every 2", "--preview"),
        ("--preview p.png --preview-every 0", "0"),
    ] {
        let stderr = desk.fail(&format!("generate apple {QUICK} {SMALL} --steps 3 --out a.png {how}"));
        assert!(stderr.contains(part) && !stderr.contains("denoise"), "{how}: {stderr}");
    }
    assert_eq!(desk.files(), [""; 0]);
}
