# virt-sandbox: `make test` and `make demo` set a fresh Debian up by themselves, as root.

PREFIX  = /usr
DESTDIR =
CARGO   = cargo
export CARGO_TERM_COLOR ?= never
# Nobody debugs what is built here for tests: it links in half the time without.
export CARGO_PROFILE_DEV_DEBUG ?= 0

# Where cargo builds.
target     = $(or $(CARGO_TARGET_DIR),target)
bin        = $(DESTDIR)$(PREFIX)/bin
libexec    = $(DESTDIR)$(PREFIX)/libexec/virt-sandbox
share      = $(DESTDIR)$(PREFIX)/share
# Completions, where each shell looks. Debian's zsh has a directory of its own for packages.
BASHDIR    = $(PREFIX)/share/bash-completion/completions
ZSHDIR     = $(PREFIX)/share/zsh/$(if $(wildcard /etc/debian_version),vendor-completions,site-functions)
FISHDIR    = $(PREFIX)/share/fish/vendor_completions.d

setup   = bash tests/setup/packages.sh
harness = $(target)/debug/test-harness
# The whole workspace at once: a crate alone has other features, and would be compiled again. A job in the background of a
# shell ignores SIGINT, and one of nohup(1) SIGHUP; the tests send both.
tests   = env --default-signal=INT,HUP,QUIT $(CARGO) test --locked --workspace
# An uninstalled program finds its parts here.
parts   = VIRT_SANDBOX_GUEST_INIT='$(abspath $(target))/guest-init/guest-init'

.PHONY: build install uninstall dist deb rpm check test test-slow test-machines test-vm test-host demo zoo bench clean setup programs
.DEFAULT_GOAL = build

build:
	$(CARGO) build --locked --release
	$(CARGO) xtask guest-init --release
	$(CARGO) xtask man --release

# Installs what `make build` built.
install:
	install -D -m 755 -t $(bin) $(target)/release/virt-sandbox $(target)/release/virt-sandbox-service \
	  $(target)/release/virt-sandbox-virtiofsd $(target)/release/virt-sandbox-virtiofsd-file
	install -D -m 755 -t $(libexec) $(target)/guest-init/guest-init
	install -D -m 644 -t $(share)/virt-sandbox/services.d services.d/*.toml
	install -D -m 644 -t $(share)/virt-sandbox/selinux selinux/*.cil
	set -e; for file in $$(find templates -type f); do install -D -m 644 $$file $(share)/virt-sandbox/$$file; done
	set -e; for section in 1 5 8; do install -D -m 644 -t $(share)/man/man$$section $(target)/man/*.$$section; done
	install -D -m 644 -t $(share)/doc/virt-sandbox README.md NEWS.md SECURITY.md LICENSE-APACHE LICENSE-MIT
	install -D -m 644 -t $(share)/doc/virt-sandbox/pages docs/*.md
	set -e; for program in virt-sandbox virt-sandbox-service; do \
	  for place in bash:$(BASHDIR)/$$program zsh:$(ZSHDIR)/_$$program fish:$(FISHDIR)/$$program.fish; do \
	    file=$(DESTDIR)$${place#*:}; install -d $${file%/*}; \
	    $(target)/release/virt-sandbox-service completions $${place%%:*} $$program >$$file; \
	    chmod 644 $$file; \
	  done; \
	done
	install -d $(DESTDIR)/etc/logrotate.d $(DESTDIR)/etc/libvirt-sandbox/services.d $(DESTDIR)/etc/libvirt-sandbox/templates
	sed 's|/usr/bin/|$(PREFIX)/bin/|' etc/logrotate.d/virt-sandbox-service >$(DESTDIR)/etc/logrotate.d/virt-sandbox-service
	chmod 644 $(DESTDIR)/etc/logrotate.d/virt-sandbox-service
	@# systemd-tmpfiles reads this directory, whatever PREFIX is.
	install -D -m 644 -t $(DESTDIR)/usr/lib/tmpfiles.d etc/tmpfiles.d/virt-sandbox.conf
	@# What a package leaves to the host's systemd. Hosts without it have the log at least.
	test -n '$(DESTDIR)' || systemd-tmpfiles --create virt-sandbox.conf || \
	  { touch -a /var/log/virt-sandbox-rotate.log && chmod 600 /var/log/virt-sandbox-rotate.log; }

# Removes what `make install` with the same variables installs. Sandboxes stay.
uninstall:
	set -e; stage=$$(mktemp -d); trap 'rm -rf "$$stage"' EXIT; \
	  $(MAKE) --silent install DESTDIR="$$stage"; \
	  (cd "$$stage" && find . -type f -printf '%P\n') | while read -r file; do rm -f "$(DESTDIR)/$$file"; done; \
	  for directory in $(libexec) $(share)/virt-sandbox $(share)/doc/virt-sandbox $(DESTDIR)/etc/libvirt-sandbox; do \
	    test ! -d $$directory || find $$directory -depth -type d -empty -delete; \
	  done

version = $(shell sed -n '/^\[workspace.package\]/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
release = virt-sandbox-$(version)
# The same archive and packages from the same commit.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# Source archive with all crates, which builds without a network.
dist:
	rm -rf target/dist && mkdir -p target/dist
	git archive --prefix=$(release)/ HEAD | tar --extract --directory target/dist
	cd target/dist/$(release) && $(CARGO) vendor --quiet --locked --versioned-dirs vendor
	printf '\n[source.crates-io]\nreplace-with = "vendor"\n[source.vendor]\ndirectory = "vendor"\n' \
	  >>target/dist/$(release)/.cargo/config.toml
	tar --create --directory target/dist --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(SOURCE_DATE_EPOCH) \
	  $(release) | xz --threads=0 >target/dist/$(release).tar.xz
	@ls -l target/dist/$(release).tar.xz

# Debian packages in target/deb. The toolchain may be rustup's, which dpkg does not know.
deb: dist
	$(setup) deb
	rm -rf target/deb && mkdir -p target/deb
	cp target/dist/$(release).tar.xz target/deb/virt-sandbox_$(version).orig.tar.xz
	tar --extract --directory target/deb --file target/dist/$(release).tar.xz
	cd target/deb/$(release) && DEB_BUILD_OPTIONS='$(DEB_BUILD_OPTIONS)' dpkg-buildpackage --build=binary --unsigned-changes --no-check-builddeps
	lintian --tag-display-limit 0 target/deb/*.changes

# RPM packages in target/rpm. A toolchain of rustup is no package, so its version is not asked for.
rpm: dist
	$(setup) rpm
	rm -rf target/rpm && mkdir -p target/rpm
	rpmbuild -bb --nodeps --define '_topdir $(CURDIR)/target/rpm' --define '_sourcedir $(CURDIR)/target/dist' \
	  packaging/virt-sandbox.spec
	@find target/rpm/RPMS -name '*.rpm'

# Needs no root, no KVM and no libvirtd.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(tests) --lib --bins
	$(tests) --test architecture
	$(tests) --test docs

setup:
	$(setup) base

# Tests, the programs that they run and the harness.
programs: setup
	$(tests) --no-run
	$(CARGO) xtask guest-init

# Each suite has a libvirtd and state directories of its own, so they run side by side, and the output of each is shown at its
# end. In a suite it is one test at a time: each looks at the host for what it left behind.
suites = suite-escape suite-service suite-run suite-docs suite-harness suite-guest-init suite-zoo
JOBS   = 3

.PHONY: $(suites)
test: setup
	$(MAKE) check
	$(MAKE) programs
	@# Here, since suites that run side by side would wait for each other's apt.
	$(setup) tests
	$(harness) zoo --first 8 --only-install
	$(MAKE) --no-print-directory --keep-going --output-sync=target -j$(JOBS) $(suites)

suite-escape suite-service suite-run suite-docs: suite-%:
	$(parts) $(harness) with-libvirtd -- $(tests) --test $* -- --test-threads=1

suite-harness:
	$(parts) $(harness) with-libvirtd -- $(tests) --test libvirtd --test qemu -- --test-threads=1

suite-guest-init:
	$(tests) --test enter --test network --test root -- --test-threads=1

suite-zoo:
	$(parts) $(harness) with-libvirtd -- $(harness) zoo --first 8 --no-install

# Cases of services and attempts to get out that are like those of `make test` and take long.
test-slow: programs
	$(parts) $(harness) with-libvirtd -- $(tests) --test escape -- --test-threads=1 --ignored --nocapture
	$(parts) $(harness) with-libvirtd -- $(tests) --test docs -- --test-threads=1 --ignored
	$(parts) $(harness) with-libvirtd -- $(tests) --test service -- --test-threads=1 --ignored --skip drivers:: --skip machines:: --skip kills:: --skip outdated::

# Every case of virt-sandbox in virtual machines; `make test` runs some.
test-machines: programs
	$(parts) $(harness) with-libvirtd -- $(tests) --test run -- --test-threads=1 --ignored

# Services in virtual machines: every verb with every driver, and the first rows of the zoo.
test-vm: programs
	$(parts) $(harness) with-libvirtd -- $(tests) --test service -- --test-threads=1 --ignored --nocapture drivers:: images:: machines:: kills:: outdated::
	$(parts) $(harness) with-libvirtd -- $(harness) zoo --machines --first 8

# All rows, or some: make zoo ZOO='apache2 nginx'
zoo: programs
	$(parts) $(harness) with-libvirtd -- $(harness) zoo $(ZOO)

# A whole host in a virtual machine; make test-host HOST='--boot plain 10-unit' some of it.
test-host: setup build
	$(setup) host
	$(CARGO) build --locked -p test-harness
	rm -rf target/host/package
	@$(MAKE) --no-print-directory install DESTDIR=target/host/package PREFIX=/usr
	$(harness) host $(HOST)

demo: programs
	$(setup) install apache2 curl
	@$(parts) $(harness) with-libvirtd -- bash tests/demo.sh

# Ratios to peers, no verdict: make bench BENCH='--json LXC'
bench: setup build
	$(setup) bench
	$(CARGO) build --locked -p test-harness
	$(CARGO) build --locked --release -p bench
	@$(parts) $(harness) with-libvirtd -- $(target)/release/bench $(BENCH)

clean:
	$(CARGO) clean
