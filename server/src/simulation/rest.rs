//! What must hold once everything works again and nobody asks for anything.

use super::world::World;

impl World {
    /// All members alike, all as the log says, and nobody left waiting.
    pub(super) fn check_rest(&self) {
        let leader = self.leader().expect("a healed cluster has a leader");
        let shown = self.seats[&leader].running.as_ref().expect("it leads").cluster.shown();
        let model = &self.judge.model;
        let everything = model.range(b"\0", b"\0", i64::MAX);
        let mut hashes = Vec::new();
        for member in &shown.members {
            let id = member.id;
            let running = self.seats[&id].running.as_ref().unwrap_or_else(|| panic!("member {id:x} does not run"));
            let status = running.raft.status();
            assert_eq!(status.leader, leader, "member {id:x} follows another leader");
            assert_eq!(status.applied, self.judge.log_len(), "member {id:x} has not applied the whole log");
            assert_eq!(running.reader.revision(), model.revision, "member {id:x} is at another revision");
            let found: Vec<_> = running.contents();
            assert_eq!(found.len(), everything.len(), "member {id:x} holds another number of keys");
            for (found, (key, version)) in found.iter().zip(&everything) {
                let same = found.key() == &key[..]
                    && Some(found.value()) == version.value.as_deref()
                    && (found.mod_revision(), found.create_revision(), found.version(), found.lease())
                        == (version.modified, version.created, version.version, version.lease);
                assert!(same, "member {id:x} holds {found:?} and not {key:?} {version:?}");
            }
            let leases = running.lessor.lock().list().len();
            assert_eq!(leases, model.leases.len(), "member {id:x} holds another number of leases");
            hashes.push(running.reader.hash(0).expect("the current revision has a hash").0);
        }
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "members have different hashes: {hashes:?}");
        assert!(model.leases.is_empty(), "leases that nobody keeps alive outlived their time: {:?}", model.leases);
        self.watchers.iter().for_each(|watcher| watcher.check_current(model));
    }
}
