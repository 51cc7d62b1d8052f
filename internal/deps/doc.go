// Package deps pins the modules of the u-root commands that internal/genbb
// rewrites: go.mod must hold what they import.
package deps
