# What takes longer than a test should. Everything else is `go test ./...`.

# scale measures a server with a million checkpoints, on SQLite and on
# PostgreSQL, and prints the tables of docs/benchmarks.md. SCALE_FLAGS="-only
# sqlite" and the like restrict it; see `go run ./bench/scale -help`.
.PHONY: scale
scale:
	go run ./bench/scale $(SCALE_FLAGS)
