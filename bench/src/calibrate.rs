//! stub
use crate::failure::Failure;
use crate::plan::CalibratePlan;
/// stub
pub fn execute(_: &CalibratePlan) -> Result<(), Failure> {
    Ok(())
}
