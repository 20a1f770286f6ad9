-- Slurm gives the hooks this table, and calls them by these names.
std = "min"
max_line_length = 120
globals = {
    "slurm_bb_data_in", "slurm_bb_data_out", "slurm_bb_get_status", "slurm_bb_job_process", "slurm_bb_job_teardown",
    "slurm_bb_paths", "slurm_bb_pools", "slurm_bb_post_run", "slurm_bb_pre_run", "slurm_bb_real_size", "slurm_bb_setup",
    "slurm_bb_test_data_in", "slurm_bb_test_data_out",
}
read_globals = { "slurm" }
files["tests/lua"] = { std = "min+busted", globals = { "slurm" } }
