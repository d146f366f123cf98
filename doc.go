// Package tinkex trains LoRA adapters on Tinker-compatible servers and keeps
// their checkpoints: the hosted service, a server of one's own ("tinkex
// serve"), or any other that speaks the protocol.
//
// A program that trains begins with a ServiceClient, which holds a session:
//
//	service, err := tinkex.NewServiceClient(tinkex.Options{}) // TINKER_API_KEY, TINKER_BASE_URL
//	if err != nil {
//		return err
//	}
//	defer service.Close()
//
//	training, err := service.CreateLoRATrainingClient(ctx, "Qwen/Qwen3-8B", tinkex.LoRAOptions{Rank: 16})
//	if err != nil {
//		return err
//	}
//	for _, batch := range batches {
//		step := training.ForwardBackward(ctx, batch, tinkex.CrossEntropy, nil)
//		update := training.OptimStep(ctx, tinkex.AdamParams{LearningRate: 1e-4})
//		out, err := step.Await(ctx)
//		if err != nil {
//			return err
//		}
//		if _, err := update.Await(ctx); err != nil {
//			return err
//		}
//		log.Println("loss", out.Metrics["loss:sum"])
//	}
//	saved, err := training.SaveState(ctx, "step-100", tinkex.SaveOptions{}).Await(ctx)
//
// Methods that start work on the server return a Future at once. They reach
// the server in the order of the calls, so a program may ask for the next step
// before it has waited for this one.
//
// A checkpoint is addressed by a TinkerPath, such as
// "tinker://<run-id>/weights/step-100". Training goes on from it exactly where
// it was saved, with the base model, rank and trained modules it was saved with:
//
//	training, err := service.CreateTrainingClientFromStateWithOptimizer(ctx, saved.Path, tinkex.StateOptions{})
//
// A program that manages checkpoints begins with a RestClient, which holds
// nothing:
//
//	rest, err := tinkex.NewRestClient(tinkex.Options{})
//	for checkpoint, err := range rest.AllCheckpoints(ctx, tinkex.PageOptions{}) {
//		...
//	}
//
// Package checkpoint downloads, verifies and prunes with it.
//
// Errors are *Error. Test what kind they are with errors.Is(err,
// tinkex.ErrNotFound) and its like; read status, category and request id with
// errors.As. What is transient was retried before, with backoff, as Options
// says; contexts end a wait promptly. Credentials appear in no error, log line
// or formatted client.
package tinkex
