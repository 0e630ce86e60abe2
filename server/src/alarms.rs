//! Which alarms are raised, by which member.

use std::collections::BTreeSet;

use forebay_proto::etcdserverpb::{AlarmMember, AlarmType};

/// The raised alarms of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// Raises an alarm; whether that is news. There is no alarm of type NONE.
    pub fn raise(&mut self, alarm: &AlarmMember) -> bool {
        alarm.alarm != AlarmType::None as i32 && self.raised.insert((alarm.alarm, alarm.member_id))
    }

    /// Ends an alarm; whether it was raised.
    pub fn clear(&mut self, alarm: &AlarmMember) -> bool {
        self.raised.remove(&(alarm.alarm, alarm.member_id))
    }

    /// The raised alarms of one type; NONE means all.
    pub fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        let wanted = |alarm: &i32| kind == AlarmType::None || *alarm == kind as i32;
        self.raised
            .iter()
            .filter(|(alarm, _)| wanted(alarm))
            .map(|(alarm, member_id)| AlarmMember { member_id: *member_id, alarm: *alarm })
            .collect()
    }

    /// Whether any member raised an alarm of this type.
    pub fn any(&self, kind: AlarmType) -> bool {
        self.raised.iter().any(|(alarm, _)| *alarm == kind as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_a_member_and_a_type() {
        let alarm = |member_id, kind: AlarmType| AlarmMember { member_id, alarm: kind as i32 };
        let mut alarms = Alarms::default();
        assert!(alarms.raise(&alarm(1, AlarmType::Nospace)));
        assert!(!alarms.raise(&alarm(1, AlarmType::Nospace)));
        assert!(!alarms.raise(&alarm(1, AlarmType::None)));
        assert!(alarms.raise(&alarm(2, AlarmType::Corrupt)));
        assert_eq!(alarms.list(AlarmType::None).len(), 2);
        assert_eq!(alarms.list(AlarmType::Corrupt), [alarm(2, AlarmType::Corrupt)]);
        assert!(!alarms.clear(&alarm(2, AlarmType::Nospace)));
        assert!(alarms.clear(&alarm(1, AlarmType::Nospace)));
        assert!(!alarms.any(AlarmType::Nospace) && alarms.any(AlarmType::Corrupt));
    }
}
