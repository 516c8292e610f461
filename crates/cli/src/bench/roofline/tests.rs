use super::*;

/// A run of all cases on the machine of docs/performance.md.
fn run() -> (Roofs, Vec<Point>) {
    let roofs = Roofs { memory: 21e9, arithmetic: vec![("bf16".into(), 6.8e12), ("int8".into(), 14e12)] };
    let points = [
        ("linear/1357x1536x6144", 1030.0, 2193.0),
        ("linear/1357x6144x1536", 1030.0, 2173.0),
        ("linear/4250x1536x4608", 906.0, 2056.0),
        ("linear/205x512x2048", 137.0, 883.0),
        ("attention/24x64x1357", 678.0, 844.0),
        ("attention/24x64x4250", 2125.0, 973.0),
        ("conv/128ch/512px", 288.0, 1416.0),
        ("conv/256ch/256px", 574.0, 2040.0),
        ("conv/512ch/128px", 1100.0, 1941.0),
        ("mmdit_step/512", 1020.0, 1342.0),
        ("mmdit_step/1024", 4200.0, 1348.0),
        ("vae_decode/512", 22_000.0, 1336.0),
        ("vae_decode/1024", 60_000.0, 1143.0),
        ("t5_encode/77/6-layers", 77.0, 880.0),
    ];
    let point =
        |(name, intensity, giga): (&str, f64, f64)| Point { name: name.into(), intensity, operations: giga * 1e9 };
    (roofs, points.map(point).into())
}

#[test]
fn a_place_is_a_logarithm_and_the_memory_line_meets_the_roof() {
    let (roofs, points) = run();
    let axes = Axes::of(&roofs, &points);
    let [a, b, c] = [100.0, 1000.0, 10_000.0].map(|x| axes.place(x, x * 1e9));
    for axis in 0..2 {
        assert!((2.0 * b[axis] - a[axis] - c[axis]).abs() < 1e-3, "decades are equally far apart");
    }
    assert!(b[0] > a[0] && b[1] < a[1], "upwards is less from the top");
    let [start, end] = axes.memory_line(&roofs);
    assert_eq!(end, axes.place(14e12 / 21e9, 14e12));
    assert!(start[0] >= PLOT.min[0] - 0.01 && start[1] <= PLOT.max[1] + 0.01);
    for place in points.iter().map(|point| axes.place(point.intensity, point.operations)) {
        assert!((0..2).all(|axis| place[axis] > PLOT.min[axis] && place[axis] < PLOT.max[axis]));
    }
}

#[test]
fn no_label_lies_over_another_or_over_a_dot_or_leaves_the_picture() {
    let (roofs, mut points) = run();
    // Three more in the same place.
    for name in ["linear/a", "linear/b", "linear/c"] {
        points.push(Point { name: name.into(), intensity: 1030.0, operations: 2193e9 });
    }
    let axes = Axes::of(&roofs, &points);
    let mut labels = Labels::new(PLOT);
    let dots: Vec<Area> =
        points.iter().map(|point| Area::around(axes.place(point.intensity, point.operations), 6.0)).collect();
    dots.iter().for_each(|dot| labels.keep_free(*dot));
    for point in &points {
        labels.put(&point.name, axes.place(point.intensity, point.operations), INK);
    }
    let areas = labels.areas();
    for (i, area) in areas.iter().enumerate() {
        assert!(areas[..i].iter().all(|other| !area.touches(other)), "{}", points[i].name);
        assert!(dots.iter().all(|dot| !area.touches(dot)), "{}", points[i].name);
        assert!((0..2).all(|axis| area.min[axis] >= PLOT.min[axis] && area.max[axis] <= PLOT.max[axis]));
    }
}

#[test]
fn one_point_or_none_is_a_picture_too() {
    let (roofs, mut points) = run();
    points.truncate(1);
    for points in [&points[..], &[]] {
        let image = draw("bf16", &roofs, points);
        assert_eq!([image.width, image.height], SIZE);
        assert!(image.rgb.chunks_exact(3).any(|pixel| pixel == ROOFS[0]), "no roof was drawn");
    }
}

#[test]
fn a_name_that_is_no_png_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, part) in [("x.jpg", "ends in .png"), ("no/such/x.png", "make it first")] {
        let error = format!("{:?}", check(&folder.path().join(name)).unwrap_err());
        assert!(error.contains(part) && error.contains("--roofline"), "{error}");
    }
    check(&folder.path().join("x.png")).unwrap();
}

/// Writes what a whole run would look like, for eyes: `cargo test ... -- --ignored a_picture_to_look_at`.
#[test]
#[ignore = "writes roofline.png to the temporary folder, to be looked at"]
fn a_picture_to_look_at() {
    let (roofs, points) = run();
    save(&std::env::temp_dir().join("roofline.png"), "bf16 on amx, 2 threads", &roofs, &points).unwrap();
}
