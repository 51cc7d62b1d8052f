// Command packages installs and packs what a build has made. `make docs`, `make install`
// and `make packages` run it in the module's root.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mkcdrec/mkcdrec/builder"
	"github.com/mkcdrec/mkcdrec/internal/reference"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	r, err := tagged()
	switch {
	case len(args) == 1 && args[0] == "docs":
		return docs(ctx)
	case err != nil:
		return err
	case len(args) == 2 && args[0] == "install":
		return install(ctx, args[1], r)
	case len(args) == 2 && args[0] == "pack":
		return pack(ctx, args[1], r)
	}
	return fmt.Errorf("expected docs, install DIR or pack DIR, not %q", args)
}

// docs writes the documents that are made of definitions.
func docs(ctx context.Context) error {
	cs, err := reference.Definitions(ctx, ".")
	if err != nil {
		return err
	}
	keys, err := builder.Keys()
	if err != nil {
		return err
	}
	schema, err := reference.Schema()
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile("docs/events.schema.json", schema, 0o644), os.WriteFile("docs/COMMANDS.md", []byte(reference.Commands(cs)), 0o644),
		os.WriteFile("docs/CONFIG.md", []byte(reference.ConfigDoc(keys)), 0o644))
}
