//! The Cluster service, as far as one member can tell.

use forebay_proto::etcdserverpb as pb;

use super::{cases, requests::*};
use crate::session::Session;

cases! { "cluster":
    member_list: "the one member, linearizable and not";
    member_add_refuses: "URLs that are none and URLs in use";
    member_remove_refuses: "unknown ids, and the last member";
    member_update: "peer URLs that are none, unknown ids";
    member_promote_refuses: "unknown ids and members that vote already";
    a_learner_joins_on_paper: "adding a learner that never starts";
}

async fn member_list(s: &mut Session) -> anyhow::Result<()> {
    for linearizable in [true, false] {
        s.member_list(pb::MemberListRequest { linearizable }).await;
    }
    s.put(put("a", "1")).await;
    s.member_list(pb::MemberListRequest { linearizable: true }).await;
    Ok(())
}

fn add(urls: &[&str], is_learner: bool) -> pb::MemberAddRequest {
    pb::MemberAddRequest { peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(), is_learner }
}

async fn own_peer_urls(s: &Session) -> anyhow::Result<(u64, Vec<String>)> {
    let mut client = pb::cluster_client::ClusterClient::new(s.channel.clone());
    let members = client.member_list(pb::MemberListRequest::default()).await?.into_inner().members;
    let member = members.first().ok_or_else(|| anyhow::anyhow!("no members"))?;
    Ok((member.id, member.peer_ur_ls.clone()))
}

async fn member_add_refuses(s: &mut Session) -> anyhow::Result<()> {
    for urls in
        [&[][..], &[""], &["nonsense"], &["http://127.0.0.1"], &["ftp://127.0.0.1:1"], &["http://127.0.0.1:1/x"]]
    {
        s.member_add(add(urls, false)).await;
        s.member_add(add(urls, true)).await;
    }
    let (_, own) = own_peer_urls(s).await?;
    s.member_add(pb::MemberAddRequest { peer_ur_ls: own.clone(), is_learner: false }).await;
    s.member_add(pb::MemberAddRequest { peer_ur_ls: own, is_learner: true }).await;
    Ok(())
}

async fn member_remove_refuses(s: &mut Session) -> anyhow::Result<()> {
    s.member_remove(pb::MemberRemoveRequest { id: 404 }).await;
    s.member_remove(pb::MemberRemoveRequest { id: 0 }).await;
    let (id, _) = own_peer_urls(s).await?;
    s.member_remove(pb::MemberRemoveRequest { id }).await;
    s.member_list(pb::MemberListRequest { linearizable: true }).await;
    Ok(())
}

async fn member_update(s: &mut Session) -> anyhow::Result<()> {
    let (id, own) = own_peer_urls(s).await?;
    s.member_update(pb::MemberUpdateRequest { id, peer_ur_ls: vec![] }).await;
    s.member_update(pb::MemberUpdateRequest { id, peer_ur_ls: vec!["nonsense".to_owned()] }).await;
    s.member_update(pb::MemberUpdateRequest { id: 404, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] }).await;
    s.member_update(pb::MemberUpdateRequest { id, peer_ur_ls: own }).await;
    s.member_update(pb::MemberUpdateRequest { id, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] }).await;
    s.member_list(pb::MemberListRequest { linearizable: true }).await;
    Ok(())
}

async fn member_promote_refuses(s: &mut Session) -> anyhow::Result<()> {
    let (id, _) = own_peer_urls(s).await?;
    s.member_promote(pb::MemberPromoteRequest { id }).await;
    s.member_promote(pb::MemberPromoteRequest { id: 404 }).await;
    Ok(())
}

async fn a_learner_joins_on_paper(s: &mut Session) -> anyhow::Result<()> {
    let mut client = pb::cluster_client::ClusterClient::new(s.channel.clone());
    let added = client.member_add(add(&["http://127.0.0.1:1"], true)).await;
    let id = match added {
        Ok(added) => added.into_inner().member.map_or(0, |member| member.id),
        Err(status) => {
            s.record::<()>("member_add", &add(&[], true), &Err(status));
            return Ok(());
        }
    };
    s.names.id(id, "the learner");
    // Members are ordered by id, and ids are chance: one list has the learner first, another last.
    let mut list = client.member_list(pb::MemberListRequest::default()).await?.into_inner();
    list.members.sort_by_key(|member| member.is_learner);
    s.record("member_list", &pb::MemberListRequest::default(), &Ok(list));
    s.member_add(add(&["http://127.0.0.1:2"], true)).await;
    // An id is made from the URLs and the second, so the same URL alone could be the same member.
    s.member_add(add(&["http://127.0.0.1:1", "http://127.0.0.1:3"], false)).await;
    s.member_promote(pb::MemberPromoteRequest { id }).await;
    s.put(put("a", "1")).await;
    s.member_remove(pb::MemberRemoveRequest { id }).await;
    s.member_remove(pb::MemberRemoveRequest { id }).await;
    s.member_promote(pb::MemberPromoteRequest { id }).await;
    Ok(())
}
