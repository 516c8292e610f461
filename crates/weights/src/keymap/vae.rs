//! The autoencoder's names.

use super::Place;

/// The autoencoder's attention is products of matrices, written as convolutions in the official files.
pub(super) fn autoencoder(official: &str, name: String) -> Place {
    let attention = official.contains(".mid.attn_1.") && official.ends_with(".weight");
    if attention && !official.ends_with(".norm.weight") { Place::Matrix(name) } else { Place::Whole(name) }
}

/// diffusers counts the decoder's levels in the order they run, the official names in that of the encoder.
pub(super) fn vae_in_diffusers(official: &str, levels: usize) -> Option<String> {
    let words: Vec<&str> = official.split('.').collect();
    Some(match words[..] {
        ["encoder", "down", level, "block", block, part, leaf] => {
            format!("encoder.down_blocks.{level}.resnets.{block}.{}.{leaf}", resnet_part(part))
        }
        ["encoder", "down", level, "downsample", "conv", leaf] => {
            format!("encoder.down_blocks.{level}.downsamplers.0.conv.{leaf}")
        }
        ["decoder", "up", level, "block", block, part, leaf] => {
            let level = levels.checked_sub(1 + level.parse::<usize>().ok()?)?;
            format!("decoder.up_blocks.{level}.resnets.{block}.{}.{leaf}", resnet_part(part))
        }
        ["decoder", "up", level, "upsample", "conv", leaf] => {
            let level = levels.checked_sub(1 + level.parse::<usize>().ok()?)?;
            format!("decoder.up_blocks.{level}.upsamplers.0.conv.{leaf}")
        }
        [side, "mid", "block_1", part, leaf] => format!("{side}.mid_block.resnets.0.{}.{leaf}", resnet_part(part)),
        [side, "mid", "block_2", part, leaf] => format!("{side}.mid_block.resnets.1.{}.{leaf}", resnet_part(part)),
        [side, "mid", "attn_1", part, leaf] => {
            format!("{side}.mid_block.attentions.0.{}.{leaf}", attention_part(part)?)
        }
        [side, "norm_out", leaf] => format!("{side}.conv_norm_out.{leaf}"),
        [side, part @ ("conv_in" | "conv_out"), leaf] => format!("{side}.{part}.{leaf}"),
        _ => return None,
    })
}

fn resnet_part(official: &str) -> &str {
    if official == "nin_shortcut" { "conv_shortcut" } else { official }
}

fn attention_part(official: &str) -> Option<&'static str> {
    Some(match official {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "proj_out" => "to_out.0",
        _ => return None,
    })
}

/// The official name of what diffusers calls `name`.
pub(super) fn vae_from_diffusers(name: &str, levels: usize) -> Option<String> {
    let words: Vec<&str> = name.split('.').collect();
    let reversed = |level: &str| levels.checked_sub(1 + level.parse::<usize>().ok()?);
    Some(match words[..] {
        ["encoder", "down_blocks", level, "resnets", block, part, leaf] => {
            format!("encoder.down.{level}.block.{block}.{}.{leaf}", resnet_part_official(part))
        }
        ["encoder", "down_blocks", level, "downsamplers", "0", "conv", leaf] => {
            format!("encoder.down.{level}.downsample.conv.{leaf}")
        }
        ["decoder", "up_blocks", level, "resnets", block, part, leaf] => {
            format!("decoder.up.{}.block.{block}.{}.{leaf}", reversed(level)?, resnet_part_official(part))
        }
        ["decoder", "up_blocks", level, "upsamplers", "0", "conv", leaf] => {
            format!("decoder.up.{}.upsample.conv.{leaf}", reversed(level)?)
        }
        [side, "mid_block", "resnets", block, part, leaf] => {
            let block = block.parse::<usize>().ok()?.checked_add(1)?;
            format!("{side}.mid.block_{block}.{}.{leaf}", resnet_part_official(part))
        }
        [side, "mid_block", "attentions", "0", "to_out", "0", leaf] => format!("{side}.mid.attn_1.proj_out.{leaf}"),
        [side, "mid_block", "attentions", "0", part, leaf] => {
            let part = ["norm", "q", "k", "v"].into_iter().find(|one| attention_part(one) == Some(part))?;
            format!("{side}.mid.attn_1.{part}.{leaf}")
        }
        [side, "conv_norm_out", leaf] => format!("{side}.norm_out.{leaf}"),
        [side, part @ ("conv_in" | "conv_out"), leaf] => format!("{side}.{part}.{leaf}"),
        _ => return None,
    })
}

fn resnet_part_official(theirs: &str) -> &str {
    if theirs == "conv_shortcut" { "nin_shortcut" } else { theirs }
}
