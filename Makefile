# What takes longer than a test should. Everything else is `go test ./...`.

# scale measures a server with a million checkpoints, on SQLite and on
# PostgreSQL, and prints the tables of docs/benchmarks.md. SCALE_FLAGS="-only
# sqlite" and the like restrict it; see `go run ./bench/scale -help`.
.PHONY: scale
scale:
	go run ./bench/scale $(SCALE_FLAGS)

# crash kills servers at random instants, until each pair of stores has had
# this many, and prints what it did. TINKEX_CRASH_SEED=N repeats a run.
CRASHES ?= 200

.PHONY: crash
crash:
	TINKEX_TEST_S3=1 TINKEX_CRASHES=$(CRASHES) go test ./conformance/crash -run '^TestKills$$' -count=1 -timeout 3h -v
