//! Limits on deltas.

use edge_tune::runtime::Budget;

use crate::values::bytes;

#[derive(clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Refuse a delta file larger than this, such as 1M.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    max_delta: Option<usize>,
    /// Refuse a delta of a higher rank or wider bottleneck.
    #[arg(long, value_name = "N")]
    max_rank: Option<usize>,
    /// Refuse a delta with a longer prompt or prefix.
    #[arg(long, value_name = "ROWS")]
    max_prompt: Option<usize>,
    /// Refuse to hold more bytes of deltas in memory.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    max_resident: Option<usize>,
    /// Refuse to have more tasks.
    #[arg(long, value_name = "N")]
    pub max_tasks: Option<usize>,
}

impl LimitArgs {
    pub fn budget(&self) -> Budget {
        let none = Budget::default();
        Budget {
            max_delta_bytes: self.max_delta.map_or(u64::MAX, |n| n as u64),
            max_resident_bytes: self.max_resident.unwrap_or(none.max_resident_bytes),
            max_resident: self.max_tasks.unwrap_or(none.max_resident),
            max_rank: self.max_rank,
            max_prompt: self.max_prompt,
        }
    }
}
