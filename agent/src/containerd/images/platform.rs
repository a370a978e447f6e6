//! Which of an image's variants runs on this board.
//!
//! A wrong ARM variant starts and then dies of an illegal instruction, so what does not surely fit is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an image, or one manifest of an index, was built for. Empty is not said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
}

impl Platform {
    pub(super) fn linux(architecture: &str, variant: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |part: &str| if part.is_empty() { "?".to_owned() } else { part.to_owned() };
        write!(f, "{}/{}", said(&self.os), said(&self.architecture))?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// The platforms that this board runs, the best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Board(Vec<Platform>);

impl Board {
    /// The board that this program runs on.
    pub(super) fn this() -> Self {
        let machine = nix::sys::utsname::uname()
            .map(|uname| uname.machine().to_string_lossy().into_owned())
            .unwrap_or_default();
        Self::of(std::env::consts::ARCH, &machine)
    }

    /// A board by the architecture that this program was built for, and by what the kernel calls the machine.
    ///
    /// The former decides: a 32-bit agent on a 64-bit kernel sits in a 32-bit userland, as its containerd does.
    pub(super) fn of(built_for: &str, machine: &str) -> Self {
        let platforms = match built_for {
            "x86_64" => vec![Platform::linux("amd64", "")],
            "x86" => vec![Platform::linux("386", "")],
            "aarch64" => vec![Platform::linux("arm64", "v8")],
            "arm" if machine.starts_with("armv6") => vec![Platform::linux("arm", "v6")],
            "arm" => vec![Platform::linux("arm", "v7"), Platform::linux("arm", "v6")],
            other => vec![Platform::linux(other, "")],
        };
        Self(platforms)
    }

    /// How well `platform` suits: 0 is best; none is not at all.
    pub(super) fn rank(&self, platform: &Platform) -> Option<usize> {
        let platform = normal(platform);
        self.0.iter().position(|ours| normal(ours) == platform)
    }

    /// The first of `offers` that suits best.
    pub(super) fn choose<'a, T>(
        &self,
        offers: &'a [T],
        platform: impl Fn(&T) -> Option<&Platform>,
    ) -> Option<&'a T> {
        offers
            .iter()
            .filter_map(|offer| Some((self.rank(platform(offer)?)?, offer)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, offer)| offer)
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(" or "))
    }
}

/// The same platform in its usual spelling: 32-bit ARM without a variant is v7, and some variants go without saying.
fn normal(platform: &Platform) -> Platform {
    let (architecture, variant) = match (platform.architecture.as_str(), platform.variant.as_str())
    {
        ("arm", "" | "7") | ("armhf", "") => ("arm", "v7"),
        ("arm", "6") | ("armel", "") => ("arm", "v6"),
        ("arm64" | "aarch64", "" | "8" | "v8") => ("arm64", ""),
        ("amd64" | "x86_64", "" | "v1") => ("amd64", ""),
        (architecture, variant) => (architecture, variant),
    };
    let os = if platform.os.is_empty() { "linux" } else { &platform.os };
    Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    /// On the board (`built_for machine`), of the `offers`, `chosen` is taken; "" is none.
    #[track_caller]
    fn check(board: &str, offers: &[&str], chosen: &str) {
        let (built_for, machine) = board.split_once(' ').unwrap();
        let offers: Vec<Platform> = offers.iter().map(|text| platform(text)).collect();
        let found = Board::of(built_for, machine).choose(&offers, |offer| Some(offer));
        assert_eq!(found.map(ToString::to_string).unwrap_or_default(), chosen);
    }

    const ALL: &[&str] = &[
        "unknown/unknown",
        "windows/amd64",
        "linux/amd64",
        "linux/arm/v5",
        "linux/arm/v6",
        "linux/arm/v7",
        "linux/arm64/v8",
        "linux/386",
        "linux/riscv64",
    ];

    #[test]
    fn each_board_takes_what_it_can_run_best() {
        check("x86_64 x86_64", ALL, "linux/amd64");
        check("aarch64 aarch64", ALL, "linux/arm64/v8");
        check("arm armv7l", ALL, "linux/arm/v7");
        check("arm armv6l", ALL, "linux/arm/v6");
        check("arm aarch64", ALL, "linux/arm/v7");
        check("riscv64 riscv64", ALL, "linux/riscv64");
    }

    #[test]
    fn a_v7_board_falls_back_to_v6_and_a_v6_board_to_nothing() {
        check("arm armv7l", &["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6");
        check("arm armv6l", &["linux/arm/v7", "linux/arm"], "");
        check("arm armv7l", &["linux/arm"], "linux/arm");
        check("arm armv7l", &["linux/arm64/v8"], "");
    }

    #[test]
    fn variants_that_go_without_saying_are_understood_and_others_refused() {
        check("aarch64 aarch64", &["linux/arm64"], "linux/arm64");
        check("aarch64 aarch64", &["linux/arm/v7", "linux/arm64/v9"], "");
        check("x86_64 x86_64", &["linux/amd64/v3", "linux/amd64/v1"], "linux/amd64/v1");
        check("x86_64 x86_64", &["linux/amd64/v3", "windows/amd64", "linux/386"], "");
    }
}
