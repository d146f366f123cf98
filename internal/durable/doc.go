// Package durable has what files need to survive a power cut and their users
// to keep out of each other's way, on every operating system.
package durable
