package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// service is a kind of program whose files are of little use if they are copied while it runs.
type service struct {
	name string
	// programs are how the names of its processes begin, comm of proc(5), which has 15 bytes
	// at most; one that ends with "*" may have more behind it.
	programs []string
	hint     string // what a hook can do
}

var services = []service{
	{"MySQL or MariaDB", []string{"mysqld", "mariadbd"}, "mysqldump --all-databases --single-transaction"},
	{"PostgreSQL", []string{"postgres", "postmaster"}, "pg_dumpall"},
	{"MongoDB", []string{"mongod"}, "mongodump"},
	{"Redis or Valkey", []string{"redis-server", "valkey-server"}, "redis-cli save"},
	{"OpenLDAP", []string{"slapd"}, "slapcat"},
	{"389 Directory Server", []string{"ns-slapd"}, "dsctl INSTANCE db2bak"},
	{"Oracle Database", []string{"ora_pmon_*", "db_pmon_*"}, "RMAN"},
	{"Db2", []string{"db2sysc"}, "db2 backup"},
	{"containers", []string{"containerd-shim*", "conmon"}, "podman pause --all, or what dumps their databases"},
	{"virtual machines", []string{"qemu-system-*", "qemu-kvm"}, "virsh domfsfreeze and domfsthaw"},
}

// Service is one that runs.
type Service struct {
	PIDs []int // of its processes, in order
	service
}

// Text names the service and what can be done. frozen is set if files are read from snapshots.
func (s Service) Text(frozen bool) string {
	state, point := "its files are read while they change", "before-backup"
	if frozen {
		state, point = "a snapshot has its files as after a power failure", "before-snapshot"
	}
	verb := "is running"
	if strings.HasSuffix(s.name, "s") {
		verb = "are running"
		state = strings.Replace(state, "its", "their", 1)
	}
	return fmt.Sprintf("%s %s (process %d), and %s; a hook of %s can save them better: %s", s.name, verb, s.PIDs[0], state, point, s.hint)
}

// Running lists the databases, containers and virtual machines that run, by the processes in the
// directory proc. With saved, only those are listed that have a file open of which it is true.
func Running(proc string, saved func(path string) bool) []Service {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	found := make([][]int, len(services))
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(proc, e.Name(), "comm"))
		if err != nil {
			continue // it has ended
		}
		exe, _ := os.Readlink(filepath.Join(proc, e.Name(), "exe")) // kernel threads have none
		for i, s := range services {
			if !s.is(strings.TrimSuffix(string(comm), "\n")) && !s.is(filepath.Base(strings.TrimSuffix(exe, " (deleted)"))) {
				continue
			}
			if saved == nil || hasOpen(filepath.Join(proc, e.Name(), "fd"), saved) {
				found[i] = append(found[i], pid)
			}
		}
	}
	var out []Service
	for i, pids := range found {
		if len(pids) > 0 {
			slices.Sort(pids)
			out = append(out, Service{pids, services[i]})
		}
	}
	return out
}

// hasOpen reports whether one of the links in a directory of open files leads to a path that is saved.
func hasOpen(dir string, saved func(path string) bool) bool {
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false // it has ended
	}
	return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		to, err := os.Readlink(filepath.Join(dir, fd.Name()))
		return err == nil && filepath.IsAbs(to) && saved(to)
	})
}

// is reports whether a process with this name is of the service.
func (s service) is(name string) bool {
	return slices.ContainsFunc(s.programs, func(p string) bool {
		if q, more := strings.CutSuffix(p, "*"); more {
			return strings.HasPrefix(name, q)
		}
		return name == p
	})
}
