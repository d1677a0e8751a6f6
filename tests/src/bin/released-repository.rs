//! Makes `tests/fixtures/repositories/VERSION` with the programs beside this one. Run at a release, once (packaging/releasing.md).

fn main() {
    pgproof_tests::released::make();
}
