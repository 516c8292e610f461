//! Whole caches in temporary folders: what is written is read, and nothing that can happen to a process or a disk
//! makes a cache that is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use rectiflow_nn::{DType, TensorData};
use tempfile::TempDir;

use super::manifest::{record_path, shard_path};
use super::*;

const SAMPLES: u64 = 10;

fn plan(vae: &str) -> CachePlan {
    let keys = [("clip_l", "11"), ("vae", vae)].map(|(key, digest)| (key.to_owned(), digest.to_owned()));
    CachePlan { keys: keys.into(), samples: SAMPLES, shard_samples: NonZeroU64::new(4).unwrap() }
}

/// f32 in one tensor, bf16 and f16 in others; sample 5 has no picture, sample 6 is missing.
fn fill(shard: &mut ShardWriter) {
    for number in shard.numbers() {
        if number == 6 {
            shard.leave_out(number, "the picture is cut short");
            continue;
        }
        let size_px = (number != 5).then_some([64, 32 + 32 * (number as u32 % 2)]);
        let values =
            |scale: f32| TensorData::new((0..6).map(|i| (number as f32 + 0.1) * scale * i as f32).collect(), [2, 3]);
        shard.add(
            CachedSample::new(number, size_px)
                .with("latent", values(1.0))
                .with("t5", StoredAs::Bf16.convert(values(3.0)).unwrap())
                .with("clip", StoredAs::F16.convert(values(-0.01)).unwrap())
                .text("id", &format!("folder/{number}.png"))
                .text("caption", "\"cats\" – 猫\n"),
        );
    }
}

fn make(folder: &Path) -> Cache {
    let mut writer = CacheWriter::open(folder, plan("22")).unwrap();
    go_on(&mut writer);
    writer.finish().unwrap()
}

/// How many shards were made.
fn go_on(writer: &mut CacheWriter) -> usize {
    let mut made = 0;
    while let Some(mut shard) = writer.claim().unwrap() {
        fill(&mut shard);
        shard.commit().unwrap();
        made += 1;
    }
    made
}

/// A complete cache of three shards.
fn made() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    make(&path);
    (folder, path)
}

/// Every file by its path, claims excepted.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let paths = all(folder).into_iter().chain(all(&folder.join("shards")));
    let read = |path: PathBuf| (path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
    paths.filter(|path| path.is_file()).map(read).collect()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn says<T>(result: Result<T, CacheError>, words: &[&str]) {
    let Err(error) = result else { panic!("no error") };
    let text = error.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "{text:?} has no {word:?}"));
    assert!(text.contains("\nhint: "), "{text:?} has no hint");
}

#[test]
fn every_bit_comes_back_in_the_type_it_was_stored_in() {
    let (_folder, path) = made();
    let cache = Cache::open(&path).unwrap();
    assert_eq!(cache.numbers().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 7, 8, 9]);
    for number in cache.numbers() {
        let entry = cache.entry(number).unwrap();
        assert_eq!(entry.names().collect::<Vec<_>>(), ["clip", "latent", "t5"]);
        let values = |scale: f32| (0..6).map(|i| (number as f32 + 0.1) * scale * i as f32).collect::<Vec<f32>>();
        let exact = |values: Vec<f32>, stored_as: StoredAs| stored_as.convert(TensorData::new(values, [2, 3])).unwrap();
        assert_eq!(entry.data("latent").unwrap(), TensorData::new(values(1.0), [2, 3]));
        assert_eq!(entry.data("t5").unwrap(), exact(values(3.0), StoredAs::Bf16));
        assert_eq!(entry.data("clip").unwrap(), exact(values(-0.01), StoredAs::F16));
        assert_eq!(entry.data("t5").unwrap().dtype(), DType::BF16);
        assert_eq!(entry.texts().unwrap()["id"], format!("folder/{number}.png"));
        assert_eq!(entry.texts().unwrap()["caption"], "\"cats\" – 猫\n");
        let size_px = (number != 5).then_some([64, 32 + 32 * (number as u32 % 2)]);
        assert_eq!(cache.size_px(number), size_px);
    }
    let manifest = cache.manifest();
    assert_eq!(manifest.stored, 9);
    assert_eq!(manifest.sizes_px, BTreeMap::from([("64x32".to_owned(), 4), ("64x64".to_owned(), 4)]));
    assert_eq!(manifest.dtypes["t5"], "BF16");
    assert_eq!(cache.sizes_px(), [[64, 32], [64, 64]]);
    assert!(cache.damaged().unwrap().is_empty());
}

#[test]
fn caches_have_one_digest_if_they_hold_the_same() {
    let [(_one, one), (_other, other)] = [made(), made()];
    let digest = |path: &Path| Cache::open(path).unwrap().digest();
    assert_eq!(digest(&one), digest(&other));
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CacheWriter::open(folder.path(), plan("22")).unwrap();
    while let Some(mut shard) = writer.claim().unwrap() {
        shard.numbers().for_each(|number| shard.leave_out(number, "it has no picture"));
        shard.commit().unwrap();
    }
    assert_ne!(writer.finish().unwrap().digest(), digest(&one));
}

#[test]
fn values_are_the_mapped_file() {
    let (_folder, path) = made();
    let cache = Cache::open(&path).unwrap();
    for name in ["latent", "t5", "clip"] {
        let entry = cache.entry(8).unwrap();
        let (raw, data) = (entry.raw(name).unwrap(), entry.data(name).unwrap());
        assert_eq!(raw.bytes.as_ptr(), data.as_bytes().as_ptr(), "{name} was copied");
        assert_eq!(raw.shape, [2, 3]);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let (_folder, path) = made();
    let cache = Cache::open(&path).unwrap();
    says(cache.entry(6), &["sample 6", "the picture is cut short"]);
    says(cache.entry(SAMPLES), &["sample 10", "has 10"]);
    says(cache.entry(0).unwrap().data("latents"), &["`latents`", "clip, latent, t5"]);
    says(cache.entry(0).unwrap().raw("texts"), &["`texts`"]);
    says(Cache::open(path.join("nowhere")), &["holds no cache"]);
}

#[test]
fn many_writers_make_the_bytes_that_one_makes() {
    let (_folder, alone) = made();
    let together = tempfile::tempdir().unwrap();
    let made: usize = std::thread::scope(|scope| {
        let work = || go_on(&mut CacheWriter::open(together.path(), plan("22")).unwrap());
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(made, 3, "a shard was made twice, or not at all");
    CacheWriter::open(together.path(), plan("22")).unwrap().finish().unwrap();
    assert!(files(&alone) == files(together.path()));
    assert!(!together.path().join("claims").exists());
}

#[test]
fn a_claimed_shard_is_nobody_elses_until_its_process_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let writer = || CacheWriter::open(folder.path(), plan("22")).unwrap();
    let (mut one, mut other) = (writer(), writer());
    let shard = one.claim().unwrap().unwrap();
    assert_eq!(shard.numbers(), 0..4);
    assert_eq!(go_on(&mut other), 2);
    assert_eq!(go_on(&mut other), 0);
    says(other.finish(), &["1 of 3 shards"]);
    drop(shard);
    assert_eq!(go_on(&mut other), 1);
    other.finish().unwrap();
}

/// What `kill -9` leaves: a claim that nobody holds, half a temporary file, a shard without its record.
#[test]
fn a_killed_process_costs_its_shard_and_no_more() {
    let (_folder, path) = made();
    let whole = files(&path);
    let (shard, record) = (shard_path(&path, 1), record_path(&path, 1));
    fs::remove_file(path.join("manifest.json")).unwrap();
    fs::remove_file(&record).unwrap();
    fs::create_dir(path.join("claims")).unwrap();
    fs::write(path.join("claims/000001"), "process 4194304, since 1 s after 1970\n").unwrap();
    fs::write(path.join("shards/.rectiflow-abc.tmp"), &whole[Path::new("shards/shard-000001.safetensors")][..99])
        .unwrap();
    says(Cache::open(&path), &["not complete"]);

    let mut writer = CacheWriter::open(&path, plan("22")).unwrap();
    let left = writer.left().unwrap();
    assert!(left.len() == 1 && left[0] == (4..8), "{left:?}");
    assert_eq!(go_on(&mut writer), 1);
    writer.finish().unwrap();
    assert!(shard.exists() && files(&path) == whole);
    assert!(!path.join("claims").exists());
}

#[test]
fn a_changed_byte_is_found_by_its_checksum_and_that_shard_made_again() {
    let (_folder, path) = made();
    let whole = files(&path);
    change(&shard_path(&path, 2), |bytes| *bytes.last_mut().unwrap() ^= 1);
    let cache = Cache::open(&path).unwrap();
    let damaged = cache.damaged().unwrap();
    assert_eq!(damaged.len(), 1);
    let unlike: Vec<u64> = cache.numbers().filter(|number| cache.entry(*number).unwrap().check().is_err()).collect();
    assert_eq!(unlike.len(), 1, "the sample whose byte it is: {unlike:?}");
    let error = cache.entry(unlike[0]).unwrap().check().unwrap_err().to_string();
    assert!(error.contains("shard-000002") && error.contains(&format!("sample {}", unlike[0])), "{error}");
    says(Err::<(), _>(damaged.into_iter().next().unwrap()), &["shard-000002", "checksum"]);

    let mut writer = CacheWriter::open(&path, plan("22")).unwrap();
    assert_eq!(writer.discard_damaged().unwrap().len(), 1);
    says(Cache::open(&path), &["not complete"]);
    assert_eq!(go_on(&mut writer), 1);
    writer.finish().unwrap();
    assert!(files(&path) == whole);
}

#[test]
fn a_shard_that_is_cut_short_or_gone_is_noticed_at_once_and_made_again() {
    let cut: fn(&Path) = |path| change(path, |bytes| bytes.truncate(bytes.len() - 1));
    let remove: fn(&Path) = |path| fs::remove_file(path).unwrap();
    for (spoil, words) in [(cut, "bytes instead of"), (remove, "not there")] {
        let (_folder, path) = made();
        let whole = files(&path);
        spoil(&shard_path(&path, 1));
        says(Cache::open(&path), &["shard-000001", words]);
        let mut writer = CacheWriter::open(&path, plan("22")).unwrap();
        assert_eq!(go_on(&mut writer), 1);
        writer.finish().unwrap();
        assert!(files(&path) == whole);
    }
}

/// Of the right length, readable, and not of this place.
#[test]
fn a_header_that_lies_is_noticed_when_the_cache_is_opened() {
    let lies: [(&str, &str, &str); 4] = [
        ("\"4/t5\"", "\"3/t5\"", "`3/t5`"),       // of another shard
        ("\"7/texts\"", "\"7/textz\"", "textz"),  // a sample less
        ("\"F16\"", "\"I16\"", "I16 instead of"), // another type of the same width
        ("\"22\"", "\"23\"", "of another cache"), // of other encoders
    ];
    for (truth, lie, words) in lies {
        let (_folder, path) = made();
        change(&shard_path(&path, 1), |bytes| {
            let at = bytes.windows(truth.len()).position(|part| part == truth.as_bytes()).expect(truth);
            bytes[at..at + lie.len()].copy_from_slice(lie.as_bytes());
        });
        says(Cache::open(&path), &["shard-000001", words]);
    }
}

#[test]
fn a_record_or_manifest_that_lies_is_noticed() {
    let (_folder, path) = made();
    let rewrite = |file: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replacen(from, to, 1)).unwrap();
    };
    let manifest = path.join("manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    for (from, to, words) in [
        ("\"stored\": 9", "\"stored\": 10", "sums"),
        ("\"file\": \"shard-000001", "\"file\": \"../../000001", "record of shard 1"),
        ("\"first\": 4", "\"first\": 5", "record of shard 1"),
        ("\"6\":", "\"9\":", "where it is"),
        ("\"samples\": 10", "\"samples\": 100", "3 shards of 25"),
        ("\"format\": 2", "\"format\": 3", "format 3"),
        ("{", "", "not what a cache has"),
    ] {
        rewrite(&manifest, from, to);
        says(Cache::open(&path), &[words]);
        fs::write(&manifest, &whole).unwrap();
    }
    // A record that cannot be read costs its shard.
    fs::write(record_path(&path, 0), "{}").unwrap();
    let mut writer = CacheWriter::open(&path, plan("22")).unwrap();
    assert_eq!(go_on(&mut writer), 1);
    // And so does one that counts a sample which the shard has not.
    let record = record_path(&path, 1);
    rewrite(&record, "\"stored\": 3", "\"stored\": 4");
    rewrite(&record, "\"6\": \"the picture is cut short\"", "");
    assert_eq!(go_on(&mut writer), 1);
}

#[test]
fn a_cache_of_other_encoders_or_samples_is_refused_with_both_named() {
    let (_folder, path) = made();
    let whole = files(&path);
    says(CacheWriter::open(&path, plan("33")), &["another `vae`", "22 there", "33 here"]);
    let mut fewer = plan("22");
    fewer.keys.remove("clip_l");
    says(CacheWriter::open(&path, fewer), &["`clip_l`", "11 there", "absent here"]);
    let more = CachePlan { samples: 11, ..plan("22") };
    says(CacheWriter::open(&path, more), &["10 samples", "11 samples"]);
    assert!(files(&path) == whole);

    let cache = Cache::open(&path).unwrap();
    cache.require(&BTreeMap::from([("vae".to_owned(), "22".to_owned())])).unwrap();
    says(cache.require(&plan("33").keys), &["another `vae`", "22 there", "33 here"]);
    says(cache.require(&BTreeMap::from([("t5".to_owned(), "5".to_owned())])), &["`t5`", "absent there"]);
}

#[test]
fn a_shard_that_cannot_be_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CacheWriter::open(folder.path(), plan("22")).unwrap();
    let mut shard = writer.claim().unwrap().unwrap();
    fill(&mut shard);
    // A folder of its name: the whole file is written, and then cannot take its place.
    let path = shard_path(folder.path(), 0);
    fs::create_dir_all(path.join("x")).unwrap();
    says(shard.commit(), &["cannot be written"]);
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path().join("shards")).unwrap().count(), 0);
    assert_eq!(go_on(&mut writer), 2);
    assert_eq!(go_on(&mut writer), 1);
}

#[test]
fn a_tensor_has_one_type_in_all_samples() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CacheWriter::open(folder.path(), plan("22")).unwrap();
    let values = |number: u64, of: u64| {
        let values = TensorData::new(vec![1.0_f32], [1]);
        if number < of { values } else { StoredAs::Bf16.convert(values).unwrap() }
    };
    let fill = |shard: &mut ShardWriter, of| {
        shard.numbers().for_each(|number| shard.add(CachedSample::new(number, None).with("t5", values(number, of))));
    };
    let mut shard = writer.claim().unwrap().unwrap();
    fill(&mut shard, 3);
    says(shard.commit(), &["`t5`", "F32", "BF16"]);
    // And so between shards.
    for _ in 0..3 {
        if let Some(mut shard) = writer.claim().unwrap().or_else(|| writer.claim().unwrap()) {
            fill(&mut shard, 4);
            shard.commit().unwrap();
        }
    }
    says(writer.finish(), &["`t5`", "F32", "BF16"]);
}
