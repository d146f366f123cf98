// Package harness is what the measuring programs share: the tinkex command
// built and served from it, commands run and watched, medians and tables.
//
// Where it reads a process's memory and CPU time it reads Linux's /proc.
package harness
