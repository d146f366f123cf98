package wire

import "time"

// RetentionPolicy says which of an owner's checkpoints the server keeps.
type RetentionPolicy struct {
	KeepLast          int      `json:"keep_last,omitempty" minimum:"0" doc:"The newest N of each run and type"`
	KeepEvery         int      `json:"keep_every,omitempty" minimum:"0" doc:"Those whose name ends in a multiple of N, or in no number"`
	KeepWithinSeconds int64    `json:"keep_within_seconds,omitempty" minimum:"0" doc:"Those saved in this time before now"`
	KeepDaily         int      `json:"keep_daily,omitempty" minimum:"0" doc:"The newest of each of the last N days that have one"`
	KeepWeekly        int      `json:"keep_weekly,omitempty" minimum:"0" doc:"The newest of each of the last N weeks that have one"`
	TimeZone          string   `json:"time_zone,omitempty" doc:"Where days begin, such as Europe/Berlin; UTC if left out"`
	Types             []string `json:"types,omitempty" doc:"weights, sampler_weights, external_weights: the only ones that the rules see; all if left out"`
	IncludePublic     bool     `json:"include_public,omitempty" doc:"Public checkpoints may go too"`
	IncludeLatest     bool     `json:"include_latest,omitempty" doc:"Each run's latest may go too"`
	All               bool     `json:"all,omitempty" doc:"Go ahead even if nothing at all is kept"`
}

// Retention is an owner's policy and what came of it.
type Retention struct {
	Policy    RetentionPolicy `json:"policy"`
	SetAt     time.Time       `json:"set_at"`
	AppliedAt *time.Time      `json:"applied_at" doc:"When it was applied last; null: not yet"`
	Removed   int             `json:"removed" doc:"How many checkpoints went then"`
	Refused   string          `json:"refused,omitempty" doc:"Why nothing was done then"`
}

// RetentionPreviewRequest asks what a policy would do.
type RetentionPreviewRequest struct {
	Policy *RetentionPolicy `json:"policy,omitempty" doc:"The one that is set, if left out"`
}
