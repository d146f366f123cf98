// Package tinkextest gives tests a real Tinkex server, as net/http/httptest
// gives them an HTTP one: embedded, on a free port of the loopback interface,
// with the built-in tiny model, gone when the test ends.
//
//	func TestCleanUp(t *testing.T) {
//		srv := tinkextest.NewServer(t)
//		run := srv.SeedRun(t, tinkextest.Run{})
//		old := srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: "0001"})
//		srv.SeedCheckpoint(t, tinkextest.Checkpoint{RunID: run, Name: "0002"})
//
//		cleanUp(t.Context(), srv.RestClient(t)) // what is tested
//
//		if _, err := srv.RestClient(t).GetCheckpoint(t.Context(), old); !errors.Is(err, tinkex.ErrNotFound) {
//			t.Errorf("%s is still there (%v)", old, err)
//		}
//	}
//
// It is the server that "tinkex serve" runs, in the test's own process: nothing
// is mocked, and other programs, the published Python package among them, can
// use its URL too. A server starts in milliseconds and costs next to nothing
// while it is idle, so that each test may have its own.
//
// SeedRun and SeedCheckpoint put metadata and files straight into its stores, in
// any number, size and age. TrainCheckpoint makes a checkpoint by training, for
// tests that resume or sample from it. A Clock moves the server's time, so that
// nothing has to be waited for to expire. FailNext makes requests fail, for tests
// of what the program does then.
//
// Every key that starts with "tml-" is an owner of its own; OptionsFor,
// RestClientFor and ServiceClientFor are for tests with several.
package tinkextest
