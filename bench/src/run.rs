//! Carries out a plan.

use crate::failure::Failure;
use crate::plan::Plan;

/// Carries out `plan`.
///
/// # Errors
/// Always, on this branch: the load generator is not part of it.
pub fn execute(plan: &Plan) -> Result<(), Failure> {
    Err(Failure::Runtime {
        message: format!("this build has no load generator for: {plan}"),
        help: "use --parse-only, or a build with the load generator".into(),
    })
}
