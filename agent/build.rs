//! Notes when this was built: no board that runs it has an earlier date, whatever its clock says.

use std::env;
use std::error::Error;
use std::time::SystemTime;

fn main() -> Result<(), Box<dyn Error>> {
    // By the convention of reproducible builds; BitBake sets it to the date of the source.
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let seconds = match env::var("SOURCE_DATE_EPOCH") {
        Ok(told) => told.parse().map_err(|_| format!("SOURCE_DATE_EPOCH is no number: {told}"))?,
        Err(_) => now()?,
    };
    println!("cargo::rustc-env=SKERRY_BUILT={seconds}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the date of the build is asked for nowhere else")]
fn now() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}
