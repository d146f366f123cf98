package registry

import (
	"crypto/sha256"
	"encoding/hex"
)

// OwnerInLog stands for an owner in logs, which are read by people who need not
// know whose name that is: the first twelve digits of the SHA-256 of the name.
// Every line that is about an owner has it, so that they can be found together.
func OwnerInLog(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return hex.EncodeToString(sum[:6])
}
