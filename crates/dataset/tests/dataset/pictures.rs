use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use rectiflow_dataset::{Background, Change, Reason, Size, decode, inspect};

use crate::support::{encoded, picture, png};

const PIXELS_MAX: u64 = 100_000_000;
const FORMATS: [ImageFormat; 5] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp];

fn decoded(bytes: &[u8]) -> RgbImage {
    decode(bytes, Background::WHITE, PIXELS_MAX).unwrap()
}

fn changes(bytes: &[u8]) -> Vec<Change> {
    inspect(bytes, None, PIXELS_MAX).unwrap().changes
}

fn committed(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

#[track_caller]
fn assert_near(pixel: &Rgb<u8>, wanted: [u8; 3]) {
    assert!(pixel.0.iter().zip(wanted).all(|(one, other)| one.abs_diff(other) <= 4), "{pixel:?} is not {wanted:?}");
}

#[test]
fn every_format_is_read_whatever_its_name() {
    let flat = RgbImage::from_pixel(33, 17, Rgb([200, 100, 50]));
    for format in FORMATS {
        let source = match format {
            ImageFormat::Gif => DynamicImage::from(DynamicImage::from(flat.clone()).to_rgba8()),
            _ => flat.clone().into(),
        };
        let bytes = encoded(source, format);
        let header = inspect(&bytes, Some("a/x.png"), PIXELS_MAX).unwrap();
        assert_eq!(header.size, Size::new(33, 17));
        let misnamed: &[Change] = if format == ImageFormat::Png { &[] } else { &[Change::MisnamedFormat] };
        assert_eq!(header.changes, misnamed, "{format:?}");
        assert_near(decoded(&bytes).get_pixel(16, 8), [200, 100, 50]);
    }
    assert_eq!(inspect(&encoded(flat, ImageFormat::Jpeg), Some("x.JPG"), PIXELS_MAX).unwrap().changes, []);
}

#[test]
fn greys_and_sixteen_bits_become_rgb_of_eight() {
    let grey = encoded(GrayImage::from_pixel(4, 4, Luma([77])), ImageFormat::Png);
    assert_eq!((changes(&grey), decoded(&grey).get_pixel(1, 1).0), (vec![Change::GreyToRgb], [77; 3]));
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(4, 4, Luma([0x8080]));
    let deep = encoded(deep, ImageFormat::Png);
    assert_eq!(changes(&deep), [Change::GreyToRgb, Change::SixteenToEightBits]);
    assert_eq!(decoded(&deep).get_pixel(0, 0).0, [128; 3]);
    let deep: ImageBuffer<Rgb<u16>, Vec<u16>> = ImageBuffer::from_pixel(4, 4, Rgb([0xffff, 0x0100, 0]));
    let deep = encoded(deep, ImageFormat::Png);
    assert_eq!((changes(&deep), decoded(&deep).get_pixel(0, 0).0), (vec![Change::SixteenToEightBits], [255, 1, 0]));
    let jpeg = encoded(GrayImage::from_pixel(16, 16, Luma([77])), ImageFormat::Jpeg);
    assert_eq!(changes(&jpeg), [Change::GreyToRgb]);
    assert_near(decoded(&jpeg).get_pixel(3, 3), [77; 3]);
}

#[test]
fn palettes_become_rgb() {
    let mut bytes = Vec::new();
    {
        let mut header = b"GIF89a\x02\0\x01\0\x80\0\0".to_vec();
        header.extend([255, 0, 0, 0, 0, 255]);
        // One frame of 2x1: codes clear, 0, 1, end at 3 bits: 100, 000, 001, 101.
        header.extend([0x2c, 0, 0, 0, 0, 2, 0, 1, 0, 0, 2, 2, 0b0100_0100, 0b0000_1010, 0, 0x3b]);
        bytes.extend(header);
    }
    assert_eq!(changes(&bytes), []);
    let read = decoded(&bytes);
    assert_eq!((read.get_pixel(0, 0).0, read.get_pixel(1, 0).0), ([255, 0, 0], [0, 0, 255]));
}

#[test]
fn what_lets_light_through_is_laid_over_the_background() {
    let half = RgbaImage::from_fn(4, 4, |x, _| Rgba([255, 0, 0, [0, 128, 255, 255][x as usize]]));
    let behind = Background([0, 100, 200]);
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let bytes = encoded(half.clone(), format);
        assert_eq!(changes(&bytes), [Change::Flattened]);
        let read = decode(&bytes, behind, PIXELS_MAX).unwrap();
        let row: Vec<[u8; 3]> = (0..3).map(|x| read.get_pixel(x, 0).0).collect();
        assert_eq!(row, [[0, 100, 200], [128, 50, 100], [255, 0, 0]]);
        assert_eq!(decoded(&bytes).get_pixel(0, 0).0, [255; 3]);
    }
    let grey: ImageBuffer<LumaA<u8>, Vec<u8>> = ImageBuffer::from_pixel(4, 4, LumaA([10, 0]));
    let bytes = encoded(grey, ImageFormat::Png);
    assert_eq!(changes(&bytes), [Change::Flattened, Change::GreyToRgb]);
    assert_eq!(decode(&bytes, behind, PIXELS_MAX).unwrap().get_pixel(0, 0).0, [0, 100, 200]);
    let gif = encoded(half, ImageFormat::Gif);
    assert_eq!(changes(&gif), [Change::Flattened]);
    assert_eq!(decode(&gif, behind, PIXELS_MAX).unwrap().get_pixel(0, 0).0, [0, 100, 200]);
}

#[test]
fn printing_inks_become_the_colours_they_print() {
    let bytes = committed("cmyk.jpg");
    assert_eq!(changes(&bytes), [Change::CmykToRgb]);
    let read = decoded(&bytes);
    for (x, y, wanted) in [(8, 8, [255, 255, 255]), (24, 8, [255, 0, 0]), (8, 24, [0, 0, 255]), (24, 24, [0, 0, 0])] {
        assert_near(read.get_pixel(x, y), wanted);
    }
}

#[test]
fn pictures_are_turned_as_cameras_say() {
    let bytes = committed("turned.jpg");
    let header = inspect(&bytes, Some("turned.jpeg"), PIXELS_MAX).unwrap();
    assert_eq!((header.size, header.changes), (Size::new(16, 32), vec![Change::Turned]));
    let read = decoded(&bytes);
    assert_near(read.get_pixel(8, 4), [255, 0, 0]);
    assert_near(read.get_pixel(8, 28), [0, 0, 255]);
}

#[test]
fn the_first_frame_of_an_animation_is_used() {
    let mut gif = Vec::new();
    let frames =
        [[255, 0, 0, 255], [0, 0, 255, 255]].map(|color| Frame::new(RgbaImage::from_pixel(16, 16, Rgba(color))));
    GifEncoder::new(&mut gif).encode_frames(frames).unwrap();
    for bytes in [gif, committed("animated.webp"), committed("animated.png")] {
        assert!(changes(&bytes).contains(&Change::FirstFrame));
        assert_near(decoded(&bytes).get_pixel(8, 8), [255, 0, 0]);
    }
}

#[test]
fn files_that_end_in_the_middle_are_told() {
    let noise = |x: u32, y: u32| (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761).to_be_bytes();
    let busy = RgbImage::from_fn(64, 64, |x, y| {
        let [one, two, three, _] = noise(x, y);
        Rgb([one, two, three])
    });
    for format in FORMATS {
        let source = match format {
            ImageFormat::Gif => DynamicImage::from(busy.clone()).to_rgba8().into(),
            _ => DynamicImage::from(busy.clone()),
        };
        let bytes = encoded(source, format);
        assert!(decode(&bytes, Background::WHITE, PIXELS_MAX).is_ok());
        for part in [3, 2] {
            let cut = decode(&bytes[..bytes.len() * (part - 1) / part], Background::WHITE, PIXELS_MAX);
            assert!(matches!(cut, Err(Reason::PictureCutShort)), "{format:?} {:?}", cut.map(|_| ()));
        }
    }
    // All but the last marker of a progressive JPEG.
    let bytes = committed("turned.jpg");
    assert_eq!(decode(&bytes[..bytes.len() - 2], Background::WHITE, PIXELS_MAX), Err(Reason::PictureCutShort));
}

#[test]
fn what_is_no_picture_is_told() {
    let told = |bytes: &[u8]| inspect(bytes, Some("x.png"), PIXELS_MAX).unwrap_err();
    assert_eq!(told(b""), Reason::EmptyPicture);
    assert_eq!(told(b"hello"), Reason::NotAPicture);
    assert_eq!(told(b"II*\0\x08\0\0\0\0\0\0\0"), Reason::UnreadFormat("tiff".into()));
    let mut damaged = png(64, 64);
    let middle = damaged.len() / 2;
    damaged[middle..middle + 8].fill(0xff);
    assert!(matches!(decode(&damaged, Background::WHITE, PIXELS_MAX), Err(Reason::DamagedPicture(_))));
}

#[test]
fn a_very_wide_picture_is_read_and_a_header_that_lies_takes_no_memory() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
        let wide = encoded(picture(20_000, 8), format);
        assert_eq!(decoded(&wide).dimensions(), (20_000, 8));
        let refused = inspect(&wide, None, 159_999).unwrap_err();
        assert_eq!(refused, Reason::TooManyPixels { size: Size::new(20_000, 8), max: 159_999 });
    }
    let mut lying = png(64, 64);
    lying[16..24].copy_from_slice(&[0, 1, 0xff, 0xff, 0, 1, 0xff, 0xff]);
    // The header's checksum, over its name and content.
    let checksum = crc32(&lying[12..29]).to_be_bytes();
    lying[29..33].copy_from_slice(&checksum);
    assert!(matches!(inspect(&lying, None, PIXELS_MAX), Err(Reason::TooManyPixels { .. })));
    assert_eq!(decoded(&png(1, 1)).dimensions(), (1, 1));
}

/// PNG specification, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn the_size_shows_from_the_beginning_of_a_file() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::WebP] {
        let bytes = encoded(picture(300, 200), format);
        let start = &bytes[..bytes.len().min(1_000)];
        assert_eq!(inspect(start, None, PIXELS_MAX).unwrap().size, Size::new(300, 200), "{format:?}");
    }
}
