package tinkex

// UsageBy is what usage is broken down by.
type UsageBy string

// What usage can be broken down by.
const (
	UsageByOwner UsageBy = "owner"
	UsageByRun   UsageBy = "run"
	UsageByKind  UsageBy = "kind" // weights, sampler_weights, external_weights
)

// Space is what checkpoints take.
type Space struct {
	Checkpoints int `json:"checkpoints"`
	// LogicalBytes is the sum of the checkpoints' sizes.
	LogicalBytes int64 `json:"logical_bytes"`
	// PhysicalBytes is what is stored: files with equal content are kept once.
	PhysicalBytes int64 `json:"physical_bytes"`
	// ExclusiveBytes is the part of PhysicalBytes that nothing outside of the
	// group shares: what deleting all of the group would free.
	ExclusiveBytes int64 `json:"exclusive_bytes"`
}

// UsageGroup is the space of one owner, run or kind.
type UsageGroup struct {
	Name string `json:"name"`
	Space
}

// Usage is one page of groups, the largest PhysicalBytes first, and the sum of
// all groups, on this page or not. What groups share is once in the sum.
type Usage struct {
	By     UsageBy      `json:"by"`
	Groups []UsageGroup `json:"groups"`
	Total  Space        `json:"total"`
	Cursor Cursor       `json:"cursor"`
}
