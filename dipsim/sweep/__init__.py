"""Many runs: points in, cells out, replays shared."""
